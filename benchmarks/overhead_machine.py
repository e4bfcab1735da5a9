"""Machine instructions of a step, by every method: `python benchmarks/overhead_machine.py`.

The models and methods of `overhead.py`, ours and other libraries'. Every machine instruction of a
step is counted, whoever it is of: the interpreter, torch, the method. Counts hardly vary, and so
show what no clock of a busy machine does. They are those of one processor and one build of torch:
the ratio to the plain step's is what to look at.

It needs valgrind on x86-64, and takes half an hour a model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

import callgrind
import gpu_models
from loops import Loop
from machine import host, versions
from overhead import LISTING, Bench
from overhead_row import USUAL, usual

RESULT = Path(__file__).parent / "results" / "overhead_machine.json"


def measure(model: str, tiny: bool) -> dict[str, dict[str, Any]]:
    """By method and kind of step the machine instructions, and their ratio to the plain step's: the
    plain generation runs just before the method's, on the same model."""
    bench = _bench(model, tiny)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "dump")
        given = ["--inside", "--model", model, *(["--tiny"] if tiny else [])]
        callgrind.run([sys.executable, __file__, *given], out)
        dumps = itertools.count(1)
        return {
            name: _row(
                [callgrind.total(out, next(dumps)) for _ in kinds],
                [callgrind.total(out, next(dumps)) for _ in kinds],
                kinds,
            )
            for name, kinds in bench.kinds.items()
        }


def _row(plain: list[int], counts: list[int], kinds: list[str]) -> dict[str, dict[str, float]]:
    usually = median(plain[USUAL])
    return {
        kind: {"instructions": round(median(own)), "ratio": round(median(own) / usually, 5)}
        for kind, own in usual([counts], kinds).items()
    }


@torch.no_grad()
def dump_steps(model: str, tiny: bool) -> None:
    """For each method a plain generation and one of its own, with a dump after each step: for a
    process under callgrind."""
    bench = _bench(model, tiny)
    steps = bench.model.steps
    for method in bench.methods.values():
        loop = bench.loop_for(method)
        _dump_generation(loop, steps)
        with method.install(loop, steps):
            _dump_generation(loop, steps)


def _dump_generation(loop: Loop, steps: int) -> None:
    # The interpreter's caches, and whatever is made once, are there after the first one.
    loop.run(steps)
    generation = loop.advance(steps)
    with callgrind.counting():
        for _ in generation:
            callgrind.dump()


def _bench(model: str, tiny: bool) -> Bench:
    return Bench(gpu_models.models(tiny, LISTING)[model])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--tiny", action="store_true", help="few blocks: to see that it runs")
    made.add_argument("--model", action="append", help="one of the listing; all by default")
    made.add_argument("--out", type=Path, default=RESULT)
    made.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    names = options.model or list(gpu_models.models(options.tiny, LISTING))
    if options.inside:
        dump_steps(names[0], options.tiny)
        return
    result = {
        "command": "python benchmarks/overhead_machine.py",
        "machine": host(),
        "versions": {**versions("cache_dit"), "valgrind": callgrind.version()},
        "models": {},
    }
    for name in names:
        result["models"][name] = rows = measure(name, options.tiny)
        for method, row in rows.items():
            print(name, method, json.dumps(row), flush=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
