"""What `benchmarks/quality.py` measured, and how its methods are compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autocache

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
SPEEDUPS = ("2", "3", "4")
PIPELINES = {
    "shapes": "Flux, pictures",
    "shapes_sd": "Stable Diffusion, pictures from a UNet",
    "shapes_wan": "Wan, clips",
}
GUIDANCE = {"plain": "without guidance", "guided": "with guidance 4"}
ALONE = ("tuned", "auto", "auto with invariant", "fewer steps")
"""Rows that stand for themselves."""
LIBRARIES = ("cache-dit", "diffusers", "DeepCache", "MindIE-SD")
OTHERS = "any other strategy"
ELSEWHERE = ("fewer_steps", "schedule")
"""Strategies whose rows have another name."""
PLAIN, FEW_STEPS = "plain", "few steps"
NO_METHODS = {PLAIN, FEW_STEPS}
"""What is no way to save compute."""

Cell = Mapping[str, Any]
Row = Mapping[str, Any]
Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Case:
    """A pipeline with or without guidance."""

    name: str
    title: str
    head: Mapping[str, Any]
    """Command, machine, versions, counts of prompts."""
    rows: Rows


def cases(folder: Path = RESULTS) -> Iterator[Case]:
    """Those that were measured."""
    for pipeline, words in PIPELINES.items():
        for guidance, how in GUIDANCE.items():
            file = folder / f"{pipeline}_{guidance}.json"
            if file.is_file():
                result = json.loads(file.read_text())
                title = f"{pipeline} ({words}), {how}"
                yield Case(f"{pipeline}_{guidance}", title, result, result["rows"])


def group(name: str) -> str:
    """What a row counts towards in the short tables."""
    if name in ALONE:
        return name
    return next((library for library in LIBRARIES if name.startswith(library)), OTHERS)


def decibels(cell: Cell) -> float:
    """Mean PSNR, infinite where nothing differs."""
    return float(cell["psnr"])


def cells(rows: Rows, speedup: str) -> dict[str, Cell]:
    """Every method that reaches a speed-up, and its figures there."""
    return {
        name: row[speedup]
        for name, row in rows.items()
        if name not in NO_METHODS and speedup in row
    }


def best_of(rows: Rows, speedup: str) -> dict[str, tuple[str, Cell]]:
    """By group: the row of the highest mean PSNR that reaches the speed-up, and its name."""
    found: dict[str, tuple[str, Cell]] = {}
    for name, cell in cells(rows, speedup).items():
        known = found.get(group(name))
        if known is None or decibels(cell) > decibels(known[1]):
            found[group(name)] = name, cell
    return found


def shown(cell: Cell) -> str:
    """Mean PSNR and its 10th percentile."""
    if cell["psnr"] == "inf":
        return "same"
    low = cell["psnr_p10"]
    return f"{cell['psnr']:.1f} / {low if low == 'inf' else format(low, '.1f')}"


def unmeasured(rows: Rows, known: Iterable[str] = ()) -> list[str]:
    """The strategies that have no row by any name, and what else is `known` and has none."""
    strategies = [one.name for one in autocache.strategies() if one.name not in ELSEWHERE]
    return [name for name in dict.fromkeys([*strategies, *known]) if name not in rows]


def origin(head: Mapping[str, Any]) -> str:
    """The command and what it ran on."""
    libraries = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    machine = head["machine"]
    where = f"{machine['processor']}, {machine['cpus']} cores, {machine['threads']} thread"
    return f"`{head['command']}`, {where}; {libraries}."
