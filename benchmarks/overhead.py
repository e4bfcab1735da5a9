"""What a method adds to a step, ours and other libraries': `python benchmarks/overhead.py`.

On denoisers of 57 and 30 blocks of tiny width, where hardly anything but the calls takes time, and
on one of a width where the computing does. A method computes and skips by turns where it can, or
computes every step.

What is counted is the same on every machine: Python instructions, torch operations, waits for the
device, bytes. Times are of this one: each turn times the plain loop and the method on the same
model, one after the other; ratios are to the plain step of the same turn, and their median counts.
Times are processor time of one thread.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import autocache
import gpu_models
import overhead_row
from gpu_contestants import FIRST, Contestant, contestants
from gpu_models import Model
from loops import Loop
from machine import host, versions
from options import in_rounds
from work import Counted

LISTING = Path(__file__).with_name("overhead_models.yaml")
RESULT = Path(__file__).parent / "results" / "overhead.json"
NEVER: dict[str, dict[str, Any]] = {
    "dit_block": {"step_interval": 1},
    "teacache": {"threshold": 0.0, "coefficients": [1.0, 0.0]},
    "attention": {"step_interval": 1},
    "fbcache": {"threshold": 1e-9},
}
"""Settings with which nothing is ever skipped. At its threshold fbcache still measures and keeps,
as First Block Cache does in diffusers."""
CPU = torch.device("cpu")
AGAIN = "plain, again"
"""The plain model against itself: what the figures are worth."""


def methods(model: Model) -> dict[str, Contestant]:
    """By name."""
    found = contestants(model)
    return {
        AGAIN: found.pop("plain"),
        **{f"autocache {name}, never skipping": _never(name) for name in NEVER},
        **found,
    }


def _never(name: str) -> Contestant:
    return Contestant(
        lambda loop, steps: autocache.patched(loop.pipeline, name, **NEVER[name]), pattern="none"
    )


class Bench:
    """One model and what is measured on it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.methods = methods(model)
        self.loop = model.build(CPU, torch.float32)

    @functools.cached_property
    def kinds(self) -> dict[str, list[str]]:
        """By method the kind of each step."""
        return {
            name: overhead_row.kinds(self.loop_for(one), one, self.model.steps)
            for name, one in self.methods.items()
        }

    def loop_for(self, method: Contestant) -> Loop:
        """The one loop, but for what leaves traces in it."""
        return self.model.build(CPU, torch.float32) if method.leaves_traces else self.loop

    def counts(self, name: str) -> dict[str, Any]:
        """What does not vary between machines."""
        method, steps, kinds = self.methods[name], self.model.steps, self.kinds[name]
        found = {
            "steps": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            "waits": overhead_row.waits(self.loop_for(method), method, steps, kinds),
            "work": overhead_row.work(self.loop_for(method), method, steps, kinds),
            "bytes": overhead_row.held(self.loop_for(method), method, steps),
        }
        if name.startswith("autocache"):
            found["intercepted"] = self._intercepted(method)
        return found

    def _intercepted(self, method: Contestant) -> float:
        """Calls of modules that we stand before, in a step."""
        with method.install(self.loop, self.model.steps), Counted() as counted:
            self.loop.run(self.model.steps)
        return round(counted.work.intercepted / self.model.steps, 1)

    def times(self, rounds: int) -> dict[str, dict[str, Any]]:
        """Of each method and kind of step the ratio, and the microseconds that were added."""
        turns: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in self.methods}
        names = list(self.methods)
        for turn in range(rounds + 1):
            # The order rotates, so that none is always the one to run after the same neighbour.
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                method, kinds = self.methods[name], self.kinds[name]
                loop = self.loop_for(method)
                took = overhead_row.seconds(loop, method, self.model.steps, kinds)
                if turn:
                    turns[name].append(took)
        return {name: _figures(several) for name, several in turns.items()}


def _figures(turns: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    kinds = turns[0][1] if turns else {}
    return {
        kind: {
            "ratio": round(statistics.median(own[kind] / plain for plain, own in turns), 4),
            "added_us": round(
                statistics.median(own[kind] - plain for plain, own in turns) * 1e6, 1
            ),
        }
        for kind in kinds
    }


def measure(model: Model, rounds: int) -> dict[str, Any]:
    """All rows of a model."""
    bench = Bench(model)
    counts = {name: bench.counts(name) for name in bench.methods}
    times = bench.times(rounds)
    return {
        "title": model.title,
        "rows": {name: {**counts[name], "time": times[name]} for name in bench.methods},
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = in_rounds(__doc__, 20, RESULT)
    made.add_argument("--tiny", action="store_true", help="few blocks: to see that it runs")
    made.add_argument("--model", action="append", help="one of the listing; all by default")
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    models = gpu_models.models(options.tiny, LISTING)
    tiny = " --tiny" if options.tiny else ""
    result = {
        "command": f"python benchmarks/overhead.py --rounds {options.rounds}{tiny}",
        "machine": host(),
        "versions": versions("cache_dit"),
        "computed_first": FIRST,
        "rounds": options.rounds,
        "models": {},
    }
    for name in options.model or models:
        model = models[name]
        result["models"][name] = found = measure(model, options.rounds)
        for method, row in found["rows"].items():
            print(name, method, json.dumps(row), flush=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
