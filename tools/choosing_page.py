"""Write the measured part of docs/choosing.md: `python tools/bench_docs.py` runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from quality_rows import (
    ALONE,
    FEW_STEPS,
    LIBRARIES,
    OTHERS,
    PLAIN,
    ROOT,
    SPEEDUPS,
    Case,
    Cell,
    Rows,
    best_of,
    cases,
    origin,
    shown,
)

PAGE = ROOT / "docs" / "choosing.md"
MEASURED = re.compile(r"(<!-- measured:begin -->\n).*(<!-- measured:end -->)", re.DOTALL)
AT = "3"
"""The speed-up at which attributes are shown."""
SHORT = (
    "Generations that are short already, at half their compute: mean PSNR of `auto`, and of half "
    "the steps, against the uncached one of as many steps, {} of the prompts:"
)


def files() -> dict[Path, str]:
    """The page with its measured part as it follows from the results."""
    text = PAGE.read_text()
    return {PAGE: MEASURED.sub(lambda m: m[1] + measured(list(cases())) + m[2], text)}


def measured(found: list[Case]) -> str:
    """The part between the markers."""
    head = found[0].head
    short = {case.title: case.rows[FEW_STEPS] for case in found if FEW_STEPS in case.rows}
    parts = [
        f"Mean PSNR of a sample in dB / its 10th percentile, {head['prompts']} prompts and seeds "
        f"that nothing was trained, chosen or tuned on, {head['steps']} steps, against the plain "
        "pipeline from the same noise. Compute is what the denoiser really multiplies. Of every "
        f"method the best of many settings stands here, chosen on {head['chosen_on']} other "
        "prompts and noise; of a library, the best of its methods, named behind the figures.",
        *(f"**{case.title}**\n\n{short_table(case.rows)}" for case in found),
        f"Attributes of the caption that a checker reads in what was drawn, at {AT} times less "
        f"compute, of the same {head['prompts']} prompts:",
        attributes_table(found),
        *((SHORT.format(head["few_steps_on"]), few_steps_table(short)) if short else ()),
        "Every method for itself, and what does not apply: [quality.md](quality.md).",
        origin(head),
    ]
    return "\n\n".join(parts) + "\n"


def short_table(rows: Rows) -> str:
    """The best of each library and of the strategies here, at each speed-up."""
    best = {speedup: best_of(rows, speedup) for speedup in SPEEDUPS}
    lines = [f"| | {' | '.join(f'{speedup}x' for speedup in SPEEDUPS)} |", "|---|---:|---:|---:|"]
    for one in [*ALONE, OTHERS, *LIBRARIES]:
        if any(one in found for found in best.values()):
            cells = (_best_cell(one, best[speedup].get(one)) for speedup in SPEEDUPS)
            lines.append(f"| {one} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _best_cell(group: str, found: tuple[str, Cell] | None) -> str:
    if found is None:
        return "not reached"
    name, cell = found
    method = cell.get("way") or name.removeprefix(group).strip()
    return shown(cell) + (f" ({method})" if method and name not in ALONE else "")


def attributes_table(found: list[Case]) -> str:
    """The share of attributes that is right, without cache and with."""
    lines = [f"| | plain | auto {AT}x | tuned {AT}x |", "|---|---:|---:|---:|"]
    for case in found:
        rows = case.rows
        shares = [rows[PLAIN], rows.get("auto", {}).get(AT), rows.get("tuned", {}).get(AT)]
        filled = [f"{one['attributes']:.1%}" if one else "-" for one in shares]
        lines.append(f"| {case.title} | {' | '.join(filled)} |")
    return "\n".join(lines)


def few_steps_table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """By title: half the compute of generations that are short already."""
    counts = list(next(iter(rows.values())))
    heads = [f"{count} steps, {way}" for count in counts for way in ("auto", "half of them")]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for title, row in rows.items():
        cells = [row[count][way] for count in counts for way in ("auto", "fewer_steps")]
        lines.append(f"| {title} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)
