"""Write the measured parts of docs/choosing.md and docs/frontier.md.

`python tools/choosing_page.py`; with `--pictures` it also draws the lines of quality against
compute, for which it needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import autocache

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "frontier.json"
CHOOSING = ROOT / "docs" / "choosing.md"
FRONTIER = ROOT / "docs" / "frontier.md"
PICTURES = ROOT / "docs" / "pictures"
MEASURED = re.compile(r"(<!-- measured:begin -->\n).*(<!-- measured:end -->)", re.DOTALL)
SPEEDUPS = ("2", "3", "4")
PIPELINES = {
    "shapes": "Flux, pictures",
    "shapes_sd": "Stable Diffusion, pictures from a UNet",
    "shapes_wan": "Wan, clips",
}
GUIDANCE = {"plain": "without guidance", "guided": "with guidance 4"}
ALONE = ("tuned", "auto", "auto with invariant", "fewer steps")
"""Rows that stand for themselves."""
ELSEWHERE = ("fewer_steps", "schedule")
"""Strategies whose rows have another name."""
ATTRIBUTES, FEW_STEPS = "attributes", "few steps"
NO_METHODS = {ATTRIBUTES, FEW_STEPS}
"""What is no way to save compute."""

Rows = Mapping[str, Mapping[str, Any]]


def group(name: str) -> str:
    """What a row counts towards in the short tables."""
    if name in ALONE:
        return name
    for library in ("cache-dit", "diffusers", "DeepCache"):
        if name.startswith(library):
            return library
    return "any other strategy"


def best_of(rows: Rows, speedup: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """By group: the row of the highest mean PSNR that reaches the speed-up, and its name."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, row in rows.items():
        if name in NO_METHODS or speedup not in row:
            continue
        known = found.get(group(name))
        if known is None or row[speedup]["psnr"] > known[1]["psnr"]:
            found[group(name)] = name, row[speedup]
    return found


def short_table(rows: Rows) -> str:
    """The best of each library and of the strategies here, at each speed-up."""
    best = {speedup: best_of(rows, speedup) for speedup in SPEEDUPS}
    groups = [*ALONE, "any other strategy", "cache-dit", "diffusers", "DeepCache"]
    lines = [f"| | {' | '.join(f'{speedup}x' for speedup in SPEEDUPS)} |", "|---|---:|---:|---:|"]
    for one in groups:
        if any(one in found for found in best.values()):
            cells = (_best_cell(one, best[speedup].get(one)) for speedup in SPEEDUPS)
            lines.append(f"| {one} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _best_cell(group_name: str, found: tuple[str, Mapping[str, Any]] | None) -> str:
    if found is None:
        return "not reached"
    name, row = found
    method = name.removeprefix(group_name).strip()
    return _figures(row) + (f" ({method})" if method and name not in ALONE else "")


def _figures(row: Mapping[str, Any]) -> str:
    if row["psnr"] == "inf":
        return "same"
    return f"{row['psnr']:.1f} / {row['psnr_p10']:.1f}"


def full_table(rows: Rows) -> str:
    """Every row, the best at 3 times less compute first."""
    reached = {name: row for name, row in rows.items() if name not in NO_METHODS and _reaches(row)}
    lines = ["| | 2x | 3x | 4x | settings tried |", "|---|---:|---:|---:|---:|"]
    for name, row in sorted(reached.items(), key=lambda item: _order(item[1])):
        cells = [_figures(row[one]) if one in row else "-" for one in SPEEDUPS]
        lines.append(f"| {name} | {' | '.join(cells)} | {row.get('settings_tried', '-')} |")
    return "\n".join(lines)


def _reaches(row: Mapping[str, Any]) -> bool:
    return any(speedup in row for speedup in SPEEDUPS)


def _order(row: Mapping[str, Any]) -> list[float]:
    return [-float(row[one]["psnr"]) if one in row else 0.0 for one in ("3", "2", "4")]


def left_out(rows: Rows) -> str:
    """What reaches none of the speed-ups, or does not apply, with the reason."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if name in NO_METHODS or _reaches(row):
            continue
        least = row.get("least_compute")
        reason = row.get("does_not_apply") or f"{least:.0%} of the compute is the least it leaves"
        reasons.setdefault(reason, []).append(name)
    if missing := unmeasured(rows):
        reasons["not measured here yet"] = missing
    return "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items())


def unmeasured(rows: Rows) -> list[str]:
    """The strategies that have no row, by their own name or another."""
    return [one.name for one in autocache.strategies() if one.name not in {*rows, *ELSEWHERE}]


def attributes_table(figures: Mapping[str, Mapping[str, Rows]]) -> str:
    """The share of attributes that is right, without cache and at 3 times less compute."""
    lines = ["| | plain | auto 3x | tuned 3x |", "|---|---:|---:|---:|"]
    for title, rows in _cases(figures):
        if ATTRIBUTES in rows:
            shares = [rows[ATTRIBUTES][way] for way in ("plain", "auto", "tuned")]
            lines.append(f"| {title} | {' | '.join(f'{one:.1%}' for one in shares)} |")
    return "\n".join(lines)


def few_steps_table(figures: Mapping[str, Mapping[str, Rows]]) -> str:
    """Half the compute of generations that are short already."""
    rows_of = {title: rows[FEW_STEPS] for title, rows in _cases(figures) if FEW_STEPS in rows}
    counts = list(next(iter(rows_of.values()), {}))
    heads = [f"{count} steps, {way}" for count in counts for way in ("auto", "half of them")]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for title, row in rows_of.items():
        cells = [row[count][way] for count in counts for way in ("auto", "fewer_steps")]
        lines.append(f"| {title} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)


def _cases(figures: Mapping[str, Mapping[str, Rows]]) -> Iterable[tuple[str, Rows]]:
    for name, pipeline in PIPELINES.items():
        for guidance, words in GUIDANCE.items():
            rows = figures.get(name, {}).get(guidance)
            if rows:
                yield f"{name} ({pipeline}), {words}", rows


def _origin(result: Mapping[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`, {result['machine']}, {libraries}."


_ATTRIBUTES = "Attributes of the caption that a checker reads in what was drawn, of {} prompts:"
_SHORT = (
    "Generations that are short already, at half their compute: mean PSNR of `auto`, and of half "
    "the steps, against the uncached one of as many steps:"
)


def measured(result: Mapping[str, Any]) -> str:
    """The part between the markers of docs/choosing.md."""
    figures = result["figures"]
    checked = any(ATTRIBUTES in rows for _, rows in _cases(figures))
    short = any(FEW_STEPS in rows for _, rows in _cases(figures))
    parts = [
        f"Mean PSNR of a sample in dB / its 10th percentile, {result['prompts']} prompts that were "
        f"not trained on, {result['steps']} steps, against the plain pipeline from the same noise. "
        "Compute is what the denoiser really multiplies. Of every method the best of many settings "
        f"stands here, chosen on {result['chosen_on']} other prompts and noise; of a library, the "
        "best of its methods, named behind the figures.",
        *(f"**{title}**\n\n{short_table(rows)}" for title, rows in _cases(figures)),
        *((_ATTRIBUTES.format(result["checked"]), attributes_table(figures)) if checked else ()),
        *((_SHORT, few_steps_table(figures)) if short else ()),
        "Every method for itself, and what does not apply: [frontier.md](frontier.md).",
        _origin(result),
    ]
    return "\n\n".join(parts) + "\n"


def frontier(result: Mapping[str, Any]) -> str:
    """docs/frontier.md."""
    parts = [
        "# Quality against compute, method by method",
        "Mean PSNR of a sample in dB / its 10th percentile at 2, 3 and 4 times less compute of the "
        "denoiser; how it was measured, and what to make of it: [choosing.md](choosing.md). A dash "
        "says that none of the settings tried gets there.",
        _origin(result),
    ]
    for title, rows in _cases(result["figures"]):
        parts += [f"## {title}", full_table(rows)]
        if rest := left_out(rows):
            parts += ["Not in the table:", rest]
    return "\n\n".join(parts) + "\n"


def draw(result: Mapping[str, Any]) -> None:
    """A picture for each pipeline, with and without guidance."""
    from autocache.tuning.frontier_plot import Point, plot

    for name, by_guidance in result["figures"].items():
        for guidance, rows in by_guidance.items():
            points: dict[str, list[Point]] = {}
            for speedup in SPEEDUPS:
                for one, (_, row) in best_of(rows, speedup).items():
                    if row["psnr"] != "inf":
                        point = Point(row["compute"], row["psnr"], row["psnr_p10"])
                        points.setdefault(one, []).append(point)
            emphasis = [one for one in ("tuned", "auto") if one in points]
            file = PICTURES / f"frontier_{name}_{guidance}.svg"
            plot(points, file, title=f"{name}, {GUIDANCE[guidance]}", emphasis=emphasis)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", action="store_true", help="draw the lines as well")
    options = parser.parse_args()
    result = json.loads(RESULT.read_text())
    text = CHOOSING.read_text()
    CHOOSING.write_text(MEASURED.sub(lambda m: m[1] + measured(result) + m[2], text))
    FRONTIER.write_text(frontier(result))
    if options.pictures:
        draw(result)


if __name__ == "__main__":
    main()
