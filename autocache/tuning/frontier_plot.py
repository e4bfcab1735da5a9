"""The frontier in one picture: quality against compute, a line for each way to save compute."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocache.errors import AutocacheError, ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Okabe and Ito's for any colour vision, but for the yellow: on white it cannot be read."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_STYLES = ("-", "--", ":")
_INK, _FAINT = "#333333", "#D9D9D9"
_AXES = {
    "speedup": "speed-up in compute",
    "time": "speed-up, measured",
    "compute": "compute, share of the uncached run",
}
_LINE = 0.19
"""Height of a label, in inches."""


@dataclass(frozen=True)
class Point:
    """What one setting costs, and how good it is."""

    compute: float
    """Share of the compute without a cache, above 0; 0.5 is twice as fast."""
    psnr: float
    """Mean PSNR per picture, in dB."""
    p10: float | None = None
    """Tenth percentile of the PSNR, in dB."""


@dataclass(frozen=True)
class _End:
    """The end of a line, for its label."""

    x: float
    y: float
    color: str
    marker: str
    strong: bool


def plot(
    points: Mapping[str, Sequence[Point]],
    path: str | Path,
    *,
    title: str = "",
    chosen: Point | None = None,
    emphasis: Collection[str] = (),
    against: Literal["speedup", "time", "compute"] = "speedup",
) -> None:
    """Write a picture of the lines that the points of each name make, labelled at their ends.

    A fainter line, where it is known, is the tenth percentile, of the emphasised names where there
    are such. Points of infinite PSNR, pictures that do not differ at all, are left out.

    Args:
        points: by name; in any order.
        path: file to write, .svg or .png.
        title, chosen: what is above the picture, and a point to mark.
        emphasis: names whose lines are drawn stronger.
        against: the horizontal axis: "speedup", 1 / compute; "time", the same of shares of time; or
            "compute" in percent, from right to left, so that the cheaper is always to the right.

    Raises:
        ParameterError: the suffix is neither, there is nothing to draw, a compute is not above 0,
            or a name in `emphasis` has no points.
        AutocacheError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ParameterError(f"{path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    drawn = _drawable(points)
    if unknown := set(emphasis) - set(points):
        raise ParameterError(f"emphasis names {', '.join(sorted(unknown))}, without any points")
    matplotlib = _matplotlib()
    # Text stays text, and the same picture is the same file.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "autocache", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = _figure(drawn, title, chosen, emphasis, against)
        dated = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=160, metadata=dated, bbox_inches="tight")


def _drawable(points: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
    for name, one in ((name, one) for name, several in points.items() for one in several):
        if not one.compute > 0:
            raise ParameterError(f"{name}: compute={one.compute}; expected a share above 0")
    finite = {
        name: sorted((one for one in several if math.isfinite(one.psnr)), key=lambda p: -p.compute)
        for name, several in points.items()
    }
    if not any(finite.values()):
        raise ParameterError("there is no point to draw")
    return {name: several for name, several in finite.items() if several}


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise AutocacheError("plots need matplotlib: pip install 'autocache[report]'") from error
    return matplotlib


def _figure(
    points: Mapping[str, Sequence[Point]],
    title: str,
    chosen: Point | None,
    emphasis: Collection[str],
    against: str,
) -> Figure:
    # Not by pyplot, whose figures live on and whose backend may want a screen.
    from matplotlib.figure import Figure

    speedup = against != "compute"
    height = max(4.2, _LINE * len(points) + 1.2)
    figure = Figure(figsize=(8.0, height), facecolor="white")
    axes = figure.add_axes((0.08, 0.62 / height, 0.64, 1 - 1.1 / height))
    _dress(axes, title, against, any(one.p10 is not None for p in points.values() for one in p))
    ends: dict[str, _End] = {}
    for nth, (name, several) in enumerate(points.items()):
        color = _COLORS[nth % len(_COLORS)]
        marker = _MARKERS[nth % len(_MARKERS)]
        style = _STYLES[nth // len(_COLORS) % len(_STYLES)]
        strong = not emphasis or name in emphasis
        x = [_x(one, speedup) for one in several]
        look: dict[str, Any] = {"color": color, "zorder": 3 if strong else 2}
        axes.plot(
            x,
            [one.psnr for one in several],
            linestyle=style,
            marker=marker,
            markersize=5,
            linewidth=1.9 if strong else 1.0,
            **look,
        )
        if strong:
            low = [math.nan if one.p10 is None else one.p10 for one in several]
            axes.plot(x, low, linestyle=style, linewidth=0.9, alpha=0.45, **look)
        ends[name] = _End(x[-1], several[-1].psnr, color, marker, strong and bool(emphasis))
    if chosen is not None and math.isfinite(chosen.psnr):
        _mark(axes, chosen, speedup)
    if not speedup:
        axes.invert_xaxis()
    axes.margins(x=0.06, y=0.08)
    _label(axes, ends, _LINE / (height - 1.1))
    return figure


def _x(point: Point, speedup: bool) -> float:
    return 1 / point.compute if speedup else 100 * point.compute


def _dress(axes: Axes, title: str, against: str, percentile: bool) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=11)
    axes.set_xlabel(_AXES[against])
    axes.set_ylabel("mean PSNR per picture (dB)")
    axes.locator_params("x", nbins=6, steps=(1, 2, 5, 10))
    axes.xaxis.set_major_formatter("{x:g}%" if against == "compute" else "{x:g}×")
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if percentile:
        look: dict[str, Any] = {"ha": "right", "va": "top", "color": _INK, "fontsize": 8}
        at = (0.99, 0.985)
        axes.annotate("faint: 10th percentile", at, xycoords="axes fraction", **look)


def _mark(axes: Axes, chosen: Point, speedup: bool) -> None:
    at = (_x(chosen, speedup), chosen.psnr)
    axes.plot(
        *at,
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=_INK,
        markeredgewidth=1.6,
        zorder=4,
    )
    axes.annotate(
        f"chosen: {1 / chosen.compute:.2f}×, {chosen.psnr:.1f} dB",
        at,
        xytext=(9, 9),
        textcoords="offset points",
        color=_INK,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=5,
    )


def _label(axes: Axes, ends: Mapping[str, _End], gap: float) -> None:
    """The names in a column at the right, each with its marker and tied to the end of its line."""
    axes.autoscale_view()
    bottom, top = axes.get_ylim()
    wanted = {name: (end.y - bottom) / (top - bottom) for name, end in ends.items()}
    for name, height in spread(wanted, gap).items():
        end = ends[name]
        axes.annotate(
            "",
            (end.x, end.y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": end.color, "linestyle": ":", "shrinkA": 0},
        )
        look: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot(1.04, height, marker=end.marker, markersize=5, color=end.color, **look)
        weight = "bold" if end.strong else "normal"
        axes.text(1.06, height, name, va="center", color=_INK, fontweight=weight, **look)


def spread(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """The heights from 0 to 1 that are nearest to the wanted ones, in the same order, at least
    `gap` apart; as far as they can be where there is no room for that."""
    order = sorted(wanted, key=lambda name: wanted[name])
    gap = min(gap, 1 / max(1, len(order) - 1))
    # Of runs too close to each other, the mean stays where it is.
    runs: list[list[float]] = []
    for nth, name in enumerate(order):
        runs.append([wanted[name] - nth * gap])
        while len(runs) > 1 and _mean(runs[-2]) > _mean(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    bases = [_mean(run) for run in runs for _ in run]
    room = 1 - (len(order) - 1) * gap
    return {
        name: min(max(base, 0.0), room) + nth * gap
        for nth, (name, base) in enumerate(zip(order, bases, strict=True))
    }


def _mean(run: Sequence[float]) -> float:
    return sum(run) / len(run)
