"""Write the table of docs/memory.md: `python tools/bench_docs.py` runs it with the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "memory.json"
PAGE = ROOT / "docs" / "memory.md"
MEASURED = re.compile(r"(<!-- measured:begin -->\n).*(<!-- measured:end -->)", re.DOTALL)
WAYS = ("bf16", "int8", "fp8", "fewer")


def files() -> dict[Path, str]:
    """The page with its table as it follows from the result."""
    return {PAGE: MEASURED.sub(lambda m: m[1] + table() + m[2], PAGE.read_text())}


def table() -> str:
    """What each way costs, strategy by strategy."""
    head = f"| pipeline | strategy | without a limit, to plain | {' | '.join(WAYS)} |"
    lines = [head, "|" + "---|" * (3 + len(WAYS))]
    for pipeline, strategies in json.loads(RESULT.read_text())["figures"].items():
        for name, rows in strategies.items():
            if "does_not_apply" not in rows:
                cells = [f"{rows['no limit']['psnr_to_plain']} dB", *(cell(rows[w]) for w in WAYS)]
                lines.append(f"| {pipeline} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any]) -> str:
    """PSNR to the strategy without a limit."""
    return "does not fit" if "does_not_fit" in row else f"{row['psnr_to_no_limit']} dB"
