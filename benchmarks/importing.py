"""What importing and patching adds to the start of a program: `python benchmarks/importing.py`.

A program of its own for each method and round imports diffusers, builds a FLUX transformer of 57
blocks, and then imports and installs the method. The ratio is of the processor time of the whole to
that of all before the method, of the same process; the median of the rounds counts. What is counted
is the same on every machine: the modules that are imported for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from machine import host, versions
from options import in_rounds

LISTING = Path(__file__).with_name("overhead_models.yaml")
RESULT = Path(__file__).parent / "results" / "importing.json"
PYDANTIC = "where pydantic is imported already"
METHODS = {
    "autocache fbcache": "import autocache; autocache.patch(model, 'fbcache')",
    f"autocache fbcache, {PYDANTIC}": "import autocache; autocache.patch(model, 'fbcache')",
    "autocache dit_block": "import autocache; autocache.patch(model, 'dit_block')",
    "autocache auto": "import autocache; autocache.patch(model)",
    "diffusers FirstBlockCache": (
        "from diffusers import FirstBlockCacheConfig; model.enable_cache(FirstBlockCacheConfig())"
    ),
    "cache-dit DBCache": (
        "import cache_dit; "
        "cache_dit.enable_cache(model, cache_config=cache_dit.DBCacheConfig("
        "num_inference_steps=28), attention_backend='native')"
    ),
}
"""What a program runs once its model is there."""
# A first class of pydantic's imports what validates it.
EARLIER = "from pydantic import BaseModel; type('Any', (BaseModel,), {})"
PROGRAM = """
import json, sys, time
import torch
{earlier}
from diffusers import FluxTransformer2DModel
torch.set_num_threads(1)
model = FluxTransformer2DModel(**json.loads(sys.argv[1])).eval()
imported, before = set(sys.modules), time.process_time()
{method}
after = time.process_time()
new = sorted(set(sys.modules) - imported)
again = None
if "autocache" in new:
    autocache.unpatch(model)
    start = time.process_time()
    {method}
    again = time.process_time() - start
print(json.dumps({{"before": before, "after": after, "again": again, "modules": new}}))
"""


def run(name: str) -> dict[str, Any]:
    """Of one program with a method: the seconds until the model is there and until the method is,
    those of a second patch of ours, and the names of the modules imported for the method."""
    config = yaml.safe_load(LISTING.read_text())["flux_narrow"]["config"]
    program = PROGRAM.format(
        earlier=EARLIER if name.endswith(PYDANTIC) else "", method=METHODS[name]
    )
    command = [sys.executable, "-c", program, json.dumps(config)]
    # As installed: with the bytecode that pip compiles.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(rounds: int) -> dict[str, Any]:
    """The row of each method, one program of each in turn."""
    # Not timed: the first one may compile what is imported.
    modules = {name: run(name)["modules"] for name in METHODS}
    turns = [{name: run(name) for name in METHODS} for _ in range(rounds)]
    return {name: _row(modules[name], [turn[name] for turn in turns]) for name in METHODS}


def _row(modules: list[str], turns: list[dict[str, Any]]) -> dict[str, Any]:
    own = [name for name in modules if name.split(".")[0] in ("autocache", "cache_dit")]
    row: dict[str, Any] = {"modules": len(modules), "own_modules": len(own)}
    if turns:
        row["ratio"] = _median(turn["after"] / turn["before"] for turn in turns)
    if turns and turns[0]["again"] is not None:
        row["again"] = _median(1 + turn["again"] / turn["before"] for turn in turns)
    return row


def _median(ratios: Any) -> float:
    return round(statistics.median(ratios), 4)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return in_rounds(__doc__, 5, RESULT)


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    result = {
        "command": f"python benchmarks/importing.py --rounds {options.rounds}",
        "machine": host(),
        "versions": versions("cache_dit", "pydantic"),
        "rounds": options.rounds,
        "rows": measure(options.rounds),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
