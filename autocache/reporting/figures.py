"""The figures of a report as one PNG: for each run the map, and beneath it the curves."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError
from autocache.reporting.answer import answer
from autocache.reporting.maps import LETTERS, Map, Step, grouped, latest, maps, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"computed": "#0072b2", "reused": "#f0b84a", "predicted": "#d79fc0"}
LINES = ("#0072b2", "#b85c00", "#00795a", "#a2437a")
MAPS = 6
"""Most maps of one run: of its latest generation, one per denoiser and branch."""
LETTERED = 60
"""Steps up to which a letter fits a cell."""
MOST_INCHES = 200


def png(report: Mapping[str, Any]) -> bytes:
    """The figures, without the pictures; nothing of matplotlib's own state is changed.

    Raises:
        AutocacheError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AutocacheError("figures need matplotlib: pip install 'autocache[report]'") from error
    shown = [_shown(run) for run in report["runs"]]
    heights = [_height(map_) for _, chosen in shown for map_ in chosen]
    heights += [2.6] * (2 * len(shown))
    total = min(sum(heights) + 1, MOST_INCHES)
    figure = Figure(figsize=(10, max(total, 2)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if not shown:
        figure.suptitle("Nothing was patched, so there is nothing to report.")
    parts = figure.subfigures(max(len(shown), 1), 1, squeeze=False)[:, 0]
    for part, (run, chosen) in zip(parts, shown, strict=False):
        title = f"{run.get('strategy')} on {run.get('model')}\n{' '.join(answer(run)[:2])}"
        part.suptitle(_literal(title), fontsize=10, wrap=True)
        rows = [*(_height(map_) for map_ in chosen), 2.6, 2.6]
        grid = part.add_gridspec(len(rows), 2, height_ratios=rows)
        for row, map_ in enumerate(chosen):
            _draw_map(part.add_subplot(grid[row, :]), map_)
        axes = [part.add_subplot(grid[len(chosen) + n // 2, n % 2]) for n in range(4)]
        _draw_curves(axes, latest(run.get("steps") or ()))
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _shown(run: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Map]]:
    return run, maps(latest(run.get("steps") or ()))[:MAPS]


def _height(map_: Map) -> float:
    return 0.9 + 0.2 * len(map_.rows)


def _draw_map(axes: Axes, map_: Map) -> None:
    from matplotlib.colors import ListedColormap

    kinds = list(LETTERS)
    cells = [[kinds.index(action) for action in actions] for _, actions in map_.rows]
    colours = ListedColormap(list(COLOURS.values()))
    axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.set_yticks(
        [row + 0.5 for row in range(len(map_.rows))],
        [_literal(name) for name, _ in map_.rows],
        fontsize=7,
    )
    every = math.ceil(len(map_.steps) / 30)
    axes.set_xticks(
        [column + 0.5 for column in range(0, len(map_.steps), every)],
        [str(step) for step in map_.steps[::every]],
        fontsize=7,
    )
    meaning = ", ".join(f"{letter} {action}" for action, letter in LETTERS.items())
    axes.set_title(_literal(f"{map_.denoiser}, branch {map_.branch}: {meaning}"), fontsize=9)
    if len(map_.steps) > LETTERED:
        return
    for row, (_, actions) in enumerate(map_.rows):
        for column, action in enumerate(actions):
            colour = "white" if action == "computed" else "black"
            axes.text(
                column + 0.5, row + 0.5, LETTERS[action], color=colour, fontsize=7,
                ha="center", va="center",
            )  # fmt: skip


def _draw_curves(axes: list[Axes], steps: list[Step]) -> None:
    titles = (
        ("distance", "Probe distance", 1.0),
        ("error", "Error, had it been skipped (dry run)", 1.0),
        ("bytes", "Cached tensors (MiB)", 1 / 2**20),
    )
    groups = grouped(steps)
    several = len({denoiser for _, denoiser, _ in groups}) > 1
    for ax, (field, title, scale) in zip(axes, titles, strict=False):
        for index, ((_, denoiser, branch), group) in enumerate(groups.items()):
            colour = LINES[index % len(LINES)]
            name = _literal(f"{denoiser}, {branch}" if several else branch)
            x, y = _points(group, field, scale)
            if any(map(math.isfinite, y)):
                ax.plot(x, y, ".-", color=colour, label=name)
            x, y = _points(group, "threshold", 1.0)
            if field == "distance" and any(map(math.isfinite, y)):
                ax.plot(x, y, ":", color=colour, label=f"threshold, {name}")
        _finish(ax, title)
    took = [(number(step.get("seconds")) or 0.0) * 1000 for step in steps]
    kinds = [COLOURS.get(str(step.get("action")), COLOURS["computed"]) for step in steps]
    if steps:
        axes[3].bar(range(len(steps)), took, color=kinds)
    _finish(axes[3], "Time by denoiser call (ms)", "call")


def _points(steps: list[Step], field: str, scale: float) -> tuple[list[float], list[float]]:
    values = [number(step.get(field)) for step in steps]
    shown = [math.nan if value is None else value * scale for value in values]
    return [float(step["step"]) for step in steps], shown


def _finish(axes: Axes, title: str, across: str = "step") -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    if axes.has_data():
        axes.set_ylim(bottom=0)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "none recorded", transform=axes.transAxes, ha="center", fontsize=8)
