"""The figures and the picture in README: `python benchmarks/demo.py`.

Runs the demonstration and keeps its figures with the machine they were taken on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

import diffusers
import torch

from autocache.demo.run import run
from autocache.jsonable import jsonable

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()
    out = ROOT / "build" / "demo"
    figures = run(out, prompts=options.prompts, guidance=options.guidance, tell=print)
    for strategy in figures["strategies"].values():
        # Where the checkout lies is nobody else's business.
        for key in ("spec_file", "profile"):
            if strategy["stats"][key]:
                strategy["stats"][key] = Path(strategy["stats"][key]).name
    result = {
        "command": f"python benchmarks/demo.py --prompts {options.prompts} "
        f"--guidance {options.guidance:g}",
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "figures": jsonable(figures),
    }
    path = ROOT / "benchmarks" / "results" / "demo.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    picture = ROOT / "docs" / "pictures" / "demo.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "grid.png", picture)


if __name__ == "__main__":
    main()
