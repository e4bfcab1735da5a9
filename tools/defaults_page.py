"""Write docs/defaults.md from the committed measurement: `python tools/bench_docs.py` runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autocache.runtime.sizes import readable_bytes

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "defaults.json"
PAGE = ROOT / "docs" / "defaults.md"
PIPELINES = {
    "shapes": "FluxPipeline, without guidance",
    "shapes_sd": "StableDiffusionPipeline, guidance in one batch",
    "shapes_wan": "WanPipeline, guidance in a call of its own",
}


def page() -> str:
    """The page as Markdown."""
    result = json.loads(RESULT.read_text())
    parts = [
        "# What each strategy costs in quality",
        "Every strategy with its defaults, or what stands beside its name, on the three bundled "
        f"pipelines, {result['steps']} steps, {result['prompts']} prompts none of which was "
        "trained on. *Compute* is the share of the denoiser's multiplications that are left, "
        "*PSNR* the distance to what the plain pipeline draws from the same noise, in dB. The next "
        "columns are the honest baseline: the plain pipeline with as many steps as cost no less. "
        "*Held* is the most memory the strategy kept.",
        "The pipelines are small and draw simple things: the figures say how the strategies behave "
        "here, and nothing of a large model. A default that was published for other checkpoints, "
        "or for more steps, may skip nothing or too much.",
        f"`{result['command']}`, {result['machine']}, torch {result['versions']['torch']}, "
        f"diffusers {result['versions']['diffusers']}.",
    ]
    for name, rows in result["figures"].items():
        parts += [f"## {name}: {PIPELINES[name]}", _table(rows), _refusals(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: dict[str, dict[str, Any]]) -> str:
    head = "| strategy | compute | PSNR | fewer steps | their PSNR | held |"
    lines = [head, "|---|---:|---:|---:|---:|---:|"]
    applied = {name: row for name, row in rows.items() if "compute" in row}
    for name, row in sorted(applied.items(), key=lambda item: item[1]["compute"]):
        lines.append(
            f"| [{name}](strategies/{name}.md){_given(row)} | {row['compute']:.1%} | "
            f"{_decibels(row['psnr'])} | "
            f"{row['fewer_steps']} | {_decibels(row['fewer_steps_psnr'])} | "
            f"{readable_bytes(row['bytes_peak'])} |"
        )
    return "\n".join(lines)


def _given(row: dict[str, Any]) -> str:
    return f" ({row['given']})" if "given" in row else ""


def _decibels(value: float | str) -> str:
    return "same" if value == "inf" else f"{value:.1f}"


def _refusals(rows: dict[str, dict[str, Any]]) -> str:
    named: dict[str, list[str]] = {}
    for name, row in rows.items():
        if "compute" not in row:
            named.setdefault(row["does_not_apply"], []).append(name)
    reasons = [f"- {', '.join(names)}: {reason}" for reason, names in named.items()]
    return "\n".join(["Refused, with this reason:", "", *reasons]) if reasons else ""
