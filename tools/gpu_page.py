"""Write docs/gpu.md from the committed results: `python tools/gpu_page.py`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from autocache.runtime.sizes import readable_bytes

ROOT = Path(__file__).resolve().parents[1]
SIZES = ROOT / "benchmarks" / "results" / "gpu_sizes.json"
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "gpu.md"
NOT_YET = (
    "No GPU was at hand so far, so nothing is shown here. The same code runs on a CPU with models "
    "of tiny width in the tests, so `python benchmarks/gpu.py` is ready for one."
)
SKIPPED = 0.99
"""A step that computes less than this share of the plain one's is one that skips."""


def page() -> str:
    """The page as Markdown."""
    sizes = json.loads(SIZES.read_text())
    measured = json.loads(RESULT.read_text()) if RESULT.exists() else None
    parts = [
        "# Full-size models on a GPU",
        "Denoisers in the size they are used in, with weights drawn at random on the device in "
        "bfloat16, in a plain loop with their scheduler. How long a step takes does not depend on "
        "what the weights are; what comes out does, so that this page says nothing of quality. All "
        "methods are set to compute and skip by turns where they can, since a threshold means "
        "nothing here.",
        *_results(measured, sizes["models"]),
        "## What they need",
        "Found without a GPU, from the published configurations, on torch's meta device: the "
        "multiplications of one step, two operations each, and what there has to be room for "
        "beside what one call computes with.",
        _needs(sizes["models"]),
        f"`{sizes['command']}`, torch {sizes['versions']['torch']}, diffusers "
        f"{sizes['versions']['diffusers']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _needs(models: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| model | parameters | operations per step | weights | kept, by strategy |",
        "|---|---:|---:|---:|---|",
    ]
    for one in models.values():
        kept = [f"{name} {readable_bytes(size)}" for name, size in one["bytes"]["kept"].items()]
        lines.append(
            f"| [{one['title']}]({one['source']}) | {one['parameters'] / 1e9:.2f} billion | "
            f"{one['operations_per_step'] / 1e12:.0f} trillion | "
            f"{readable_bytes(one['bytes']['weights'])} | {', '.join(kept)} |"
        )
    return "\n".join(lines)


def _results(measured: dict[str, Any] | None, sizes: dict[str, Any]) -> list[str]:
    if measured is None:
        return ["## Measured", NOT_YET]
    known = measured["versions"]
    parts = [
        "## Measured",
        f"`{measured['command']}`, {measured['device']}, torch {known['torch']}, diffusers "
        f"{known['diffusers']}, cache-dit {known['cache-dit']}. *Generation* is the whole one as a "
        "ratio to the plain one's; *computed* and *skipped* are milliseconds of a step that "
        "computes all and of one that does not; *waits* are for the device, in the whole "
        "generation; *more memory* is the peak above the plain one's.",
    ]
    for name, modes in measured["models"].items():
        for mode, rows in modes.items():
            if "plain" in rows and "total_ms" in rows["plain"]:
                parts += [f"### {sizes[name]['title']}, {mode}", _table(rows, modes["eager"])]
    return parts


def _table(rows: dict[str, dict[str, Any]], eager: dict[str, dict[str, Any]]) -> str:
    head = "| method | generation | computed | skipped | waits | more memory |"
    lines = [head, "|---|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        if "total_ms" not in row:
            said = next(f"{key}: {value}" for key, value in row.items() if key != "pattern")
            lines.append(f"| {name} | {said.replace('|', ' ')} | | | | |")
            continue
        plain = rows["plain"]
        took = _steps(row, eager.get(name, {}), eager.get("plain", {}))
        cells = [
            f"{row['total_ms'] / plain['total_ms']:.3f}",
            *(f"{took[kind]:.1f}" if kind in took else "" for kind in ("computed", "skipped")),
            str(row["waits"]),
            _more(row, plain),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _more(row: dict[str, Any], plain: dict[str, Any]) -> str:
    if "bytes_peak" not in row or "bytes_peak" not in plain:
        return ""
    return readable_bytes(max(0, row["bytes_peak"] - plain["bytes_peak"]))


def _steps(row: dict[str, Any], own: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a step that computes and of one that skips, as the operations of the eager
    row tell them apart; without the first step, which makes what the others use again."""
    if "operations" not in own or "operations" not in plain:
        return {}
    whole = statistics.median(plain["operations"])
    kinds: dict[str, list[float]] = {"computed": [], "skipped": []}
    for took, made in list(zip(row["milliseconds"], own["operations"], strict=True))[1:]:
        kinds["skipped" if made < SKIPPED * whole else "computed"].append(took)
    return {kind: statistics.median(each) for kind, each in kinds.items() if each}


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
