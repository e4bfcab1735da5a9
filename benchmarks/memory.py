"""What each way to fit a memory limit saves, and costs in quality: `python benchmarks/memory.py`.

Each strategy runs without a limit, and then within half of what it held, once for each lossy way
and once with fewer places. PSNR is against the same strategy without a limit, and against the plain
pipeline, from the same noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any

import diffusers
import numpy as np
import torch

import autocache
from autocache.errors import DoesNotApplyError, MemoryLimitError
from autocache.metrics import mean_psnr, psnr
from cases import CASES
from defaults import ROOT, Runner

STRATEGIES: dict[str, dict[str, Any]] = {
    "attention": {},
    "auto": {},
    "dit_block": {},
    "taylorseer": {},
    "teacache": {},
}
WAYS = ("bf16", "int8", "fp8", "fewer")


def _psnr(one: np.ndarray, other: np.ndarray) -> float | str:
    found = mean_psnr(psnr(one, other))
    return round(found, 2) if np.isfinite(found) else "inf"


def _row(runner: Runner, name: str, **options: Any) -> tuple[dict[str, Any], np.ndarray]:
    """One run: what it held and computed, and what was drawn."""
    plain, cost = runner.reference(runner.steps)
    with autocache.patch(runner.pipe, name, **STRATEGIES[name], **options) as patch:
        drawn, spent = runner.draw(runner.steps)
        stats = patch.stats()
    row = {
        "bytes_peak": stats.bytes_peak,
        "compute": round(spent / cost, 4),
        "psnr_to_plain": _psnr(plain, drawn),
    }
    return row, drawn


def _rows(runner: Runner, name: str) -> dict[str, Any]:
    try:
        whole, expected = _row(runner, name)
    except DoesNotApplyError as error:
        return {"does_not_apply": str(error)}
    rows: dict[str, Any] = {"no limit": whole}
    limit = whole["bytes_peak"] // 2
    for way in WAYS:
        try:
            rows[way], drawn = _row(runner, name, memory_limit=limit, memory_fit=way)
        except MemoryLimitError:
            rows[way] = {"does_not_fit": True}
            continue
        rows[way]["psnr_to_no_limit"] = _psnr(expected, drawn)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=28)
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for case_name, case in CASES.items():
        runner = Runner(case, options.prompts, options.steps)
        figures[case_name] = {}
        for name in STRATEGIES:
            figures[case_name][name] = rows = _rows(runner, name)
            print(case_name, name, rows, flush=True)
    result = {
        "command": f"python benchmarks/memory.py --prompts {options.prompts} "
        f"--steps {options.steps}",
        "prompts": options.prompts,
        "steps": options.steps,
        "limit": "half of what is held without one",
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "figures": figures,
    }
    path = ROOT / "benchmarks" / "results" / "memory.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
