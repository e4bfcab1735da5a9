"""Machine instructions of a step, by every method: `python benchmarks/overhead_machine.py`.

The models and methods of `overhead.py`, ours and other libraries'. Every machine instruction of a
step is counted, whoever it is of: the interpreter, torch, the method. Counts vary by some tenths of
a percent, however busy the machine is, and so show what no clock of it does. They are those of one
processor and one build of torch: the ratio to the plain step's is what to look at.

It needs valgrind on x86-64, and takes half an hour for each of the two models of next to no width.
On the third computing is nearly all there is, which valgrind is too slow for.
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
MODELS = ("flux_narrow", "wan_narrow")


def measure(model: str, rows: list[str], tiny: bool) -> dict[str, dict[str, Any]]:
    """By method and kind of step the machine instructions, and their ratio to the plain step's: the
    plain generation runs just before the method's, on the same model."""
    bench = _bench(model, tiny)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "dump")
        chosen = [f"--row={row}" for row in rows]
        given = ["--inside", f"--model={model}", *chosen, *(["--tiny"] if tiny else [])]
        callgrind.run([sys.executable, __file__, *given], out)
        dumps = itertools.count(1)
        return {
            name: _row(
                [callgrind.total(out, next(dumps)) for _ in bench.kinds[name]],
                [callgrind.total(out, next(dumps)) for _ in bench.kinds[name]],
                bench.kinds[name],
            )
            for name in _chosen(bench, rows)
        }


def _row(plain: list[int], counts: list[int], kinds: list[str]) -> dict[str, dict[str, float]]:
    usually = median(plain[USUAL])
    return {
        kind: {"instructions": round(median(own)), "ratio": round(median(own) / usually, 5)}
        for kind, own in usual([counts], kinds).items()
    }


def _chosen(bench: Bench, rows: list[str]) -> list[str]:
    return [name for name in bench.methods if not rows or name in rows]


@torch.no_grad()
def dump_steps(model: str, rows: list[str], tiny: bool) -> None:
    """For each method a plain generation and one of its own, with a dump after each step: for a
    process under callgrind."""
    bench = _bench(model, tiny)
    steps = bench.model.steps
    for name in _chosen(bench, rows):
        method = bench.methods[name]
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
    made.add_argument("--model", action="append", choices=MODELS, help="both by default")
    made.add_argument("--row", action="append", default=[], help="a method; all by default")
    made.add_argument("--out", type=Path, default=RESULT, help="what it has of others stays")
    made.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    if options.inside:
        dump_steps(options.model[0], options.row, options.tiny)
        return
    result = _so_far(options)
    for name in options.model or MODELS:
        rows = measure(name, options.row, options.tiny)
        result["models"].setdefault(name, {}).update(rows)
        for method, row in rows.items():
            print(name, method, json.dumps(row), flush=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def _so_far(options: argparse.Namespace) -> dict[str, Any]:
    """The result without the rows to come: what the file has, where that is of the same."""
    about = {
        "command": f"python benchmarks/overhead_machine.py{' --tiny' if options.tiny else ''}",
        "machine": host(),
        "versions": {**versions("cache_dit"), "valgrind": callgrind.version()},
    }
    if not options.out.exists():
        return {**about, "models": {}}
    before = json.loads(options.out.read_text())
    others = [name for name, value in about.items() if before.get(name) != value]
    if others:
        # Its rows would be taken for measured like those to come.
        raise SystemExit(
            f"{options.out} has another {', '.join(others)} than this run: give another --out, "
            "or remove it"
        )
    return before


if __name__ == "__main__":
    main()
