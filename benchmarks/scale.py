"""How what we add grows with the model and its use: `python benchmarks/scale.py`.

A Flux transformer of tiny width, so that little else takes time, in any number of blocks, steps,
tokens and samples; and one generation beside other patched pipelines and requests. Work is counted
in instructions of Python's interpreter in our own files, which is the same on every machine; time
is a ratio to the plain model in the same round. Results are written after each row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

import scale_sessions
from machine import host, versions
from options import in_rounds
from scale_growth import SETTINGS, row
from scale_model import Size

RESULT = Path(__file__).parent / "results" / "scale.json"
SWEEPS: dict[str, tuple[int, ...]] = {
    "blocks": (8, 16, 32, 64, 128),
    "steps": (12, 50, 200),
    "tokens": (64, 256, 1024, 4096),
    "batch": (1, 4, 16),
}
SESSIONS = (0, 1, 4, 16, 64)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return in_rounds(__doc__, 3, RESULT)


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": f"python benchmarks/scale.py --rounds {options.rounds}",
        "machine": host(),
        "versions": versions(),
        "model": "FluxTransformer2DModel, width 16, one third of the blocks with two streams",
        "otherwise": dataclasses.asdict(Size()),
        "growth": {},
        "sessions": {},
    }
    for dimension, values in SWEEPS.items():
        rows = result["growth"][dimension] = {}
        for value in values:
            size = dataclasses.replace(Size(), **{dimension: value})
            rows[value] = {}
            for setting in SETTINGS:
                rows[value][setting.strategy] = row(size, setting, options.rounds)
                _write(options.out, result)
            print(dimension, value, rows[value]["dit_block"], flush=True)
    for name, company in scale_sessions.COMPANY.items():
        rows = result["sessions"][name] = {}
        for count in SESSIONS:
            rows[count] = scale_sessions.idle(company, count, options.rounds)
            print(name, count, rows[count], flush=True)
            _write(options.out, result)
    rows = result["sessions"]["requests by turns"] = {}
    for count in SESSIONS[1:]:
        rows[count] = scale_sessions.by_turns(count)
        print("requests by turns", count, rows[count], flush=True)
        _write(options.out, result)


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
