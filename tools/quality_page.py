"""Write docs/quality.md and its pictures: `python tools/bench_docs.py` runs it with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from quality_peers import behind
from quality_rows import (
    NO_METHODS,
    PLAIN,
    ROOT,
    SPEEDUPS,
    Case,
    Cell,
    Row,
    Rows,
    best_of,
    cases,
    decibels,
    origin,
    shown,
    unmeasured,
)

PAGE = ROOT / "docs" / "quality.md"
PICTURES = ROOT / "docs" / "pictures"
ABOUT = """# Quality against compute, method by method

Every method at 2, 3 and 4 times less compute of the denoiser, {prompts} prompts and seeds that
nothing was chosen or tuned on, {steps} steps. What to make of it: [choosing.md](choosing.md); how
it was measured: [benchmarks.md](benchmarks.md#quality-against-compute). Settings were chosen on
{chosen_on} prompts of their own. A dash says that none of the settings tried gets there.
"""
PSNR = "PSNR in dB against the plain pipeline from the same noise, mean / 10th percentile:"
SSIM = (
    "SSIM, mean / 10th percentile; and the share of the captions' attributes that a checker reads, "
    "{:.1%} in what the plain pipeline draws:"
)
TIME = (
    "Time to the last latent as a share of the plain pipeline's, in turns within one process, "
    "median of {turns} with {prompts} prompts: processor time / by the clock (its range). "
    "`{command}`."
)


def page() -> str:
    """The page as Markdown."""
    measured = list(cases())
    parts = [ABOUT.format(**measured[0].head), origin(measured[0].head)]
    parts += ["## Where another library is ahead", behind(measured)]
    known = dict.fromkeys(name for case in measured for name in case.rows)
    for case in measured:
        parts += [f"## {case.title}", *_tables(case)]
        if rest := left_out(case.rows, known):
            parts += ["Not in the tables:", rest]
    return "\n\n".join(parts) + "\n"


def _tables(case: Case) -> Iterator[str]:
    yield PSNR
    yield table(case.rows, _with_way)
    yield SSIM.format(case.rows[PLAIN]["attributes"])
    yield table(case.rows, _likeness)
    if any("time" in row.get(one, {}) for row in case.rows.values() for one in SPEEDUPS):
        yield TIME.format(**case.head["timed"])
        yield table(case.rows, _time)


def table(rows: Rows, cell: Callable[[str, Cell], str]) -> str:
    """Every method that reaches a speed-up, the best at 3 times less compute first."""
    reached = {name: row for name, row in rows.items() if name not in NO_METHODS and _reaches(row)}
    lines = ["| | 2x | 3x | 4x | settings tried |", "|---|---:|---:|---:|---:|"]
    for name, row in sorted(reached.items(), key=lambda item: _order(item[1])):
        filled = [cell(name, row[one]) if one in row else "-" for one in SPEEDUPS]
        if any(one != "-" for one in filled):
            lines.append(f"| {name} | {' | '.join(filled)} | {row.get('settings_tried', '-')} |")
    return "\n".join(lines)


def _with_way(name: str, cell: Cell) -> str:
    way = cell.get("way", name)
    return shown(cell) + (f" ({way})" if way != name else "")


def _likeness(name: str, cell: Cell) -> str:
    return f"{cell['ssim']:.3f} / {cell['ssim_p10']:.3f}; {cell['attributes']:.1%}"


def _time(name: str, cell: Cell) -> str:
    if "time" not in cell:
        return "-"
    time: Any = cell["time"]
    low, high = time["wall_range"]
    return f"{time['cpu']:.2f} / {time['wall']:.2f} ({low:.2f} to {high:.2f})"


def _reaches(row: Row) -> bool:
    return any(speedup in row for speedup in SPEEDUPS)


def _order(row: Row) -> list[float]:
    return [-decibels(row[one]) if one in row else 0.0 for one in ("3", "2", "4")]


def left_out(rows: Rows, known: Iterable[str] = ()) -> str:
    """What reaches none of the speed-ups, does not apply, or was measured elsewhere alone."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if name in NO_METHODS or _reaches(row):
            continue
        least = row.get("least_compute")
        reason = row.get("does_not_apply") or f"{least:.0%} of the compute is the least it leaves"
        reasons.setdefault(reason, []).append(name)
    if missing := unmeasured(rows, known):
        reasons["not measured here yet"] = missing
    return "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items())


def draw() -> dict[Path, tuple[Any, Callable[[Path], None]]]:
    """For each picture: what it shows, and how it is drawn."""
    from autocache.tuning.frontier_plot import Point, plot

    pictures: dict[Path, tuple[Any, Callable[[Path], None]]] = {}
    for case in cases():
        points: dict[str, list[Point]] = {}
        for speedup in SPEEDUPS:
            for one, (_, cell) in best_of(case.rows, speedup).items():
                if cell["psnr"] != "inf" and cell["psnr_p10"] != "inf":
                    point = Point(cell["compute"], cell["psnr"], cell["psnr_p10"])
                    points.setdefault(one, []).append(point)
        emphasis = [one for one in ("tuned", "auto") if one in points]

        def picture(
            file: Path, case: Case = case, points: Any = points, emphasis: Any = emphasis
        ) -> None:
            plot(points, file, title=case.title, emphasis=emphasis)

        pictures[PICTURES / f"quality_{case.name}.svg"] = (case.title, points, emphasis), picture
    return pictures
