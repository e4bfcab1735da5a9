"""docs/memory.md shows the figures that were measured, and names the ways that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autocache.memory import LOSSLESS, WAYS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "memory.md").read_text()
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())["figures"]


def _cell(row: dict[str, Any]) -> str:
    return "does not fit" if "does_not_fit" in row else f"{row['psnr_to_no_limit']} dB"


def test_the_table_is_what_was_measured() -> None:
    """Each row, and none besides."""
    expected = [
        f"| {pipeline} | {name} | {rows['no limit']['psnr_to_plain']} dB | "
        + " | ".join(_cell(rows[way]) for way in ("bf16", "int8", "fp8", "fewer"))
        + " |"
        for pipeline, strategies in FIGURES.items()
        for name, rows in strategies.items()
        if "does_not_apply" not in rows
    ]
    assert [line for line in PAGE.splitlines() if line.startswith("| shapes")] == expected


def test_every_way_is_named() -> None:
    """And the default is the one there is."""
    assert all(f'| `"{way}"` |' in PAGE for way in WAYS)
    assert f'The default is `("{LOSSLESS[0]}", "{LOSSLESS[1]}")`' in PAGE.replace("\n", " ")
