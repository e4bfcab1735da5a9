"""The best picture for the compute: `python benchmarks/frontier.py`.

On each bundled pipeline, with and without classifier-free guidance, at 2, 3 and 4 times less
compute: fewer steps, every strategy, and the caches of other libraries, each at the best of many
settings that reach that compute. Settings are chosen on prompts and noise of their own and measured
on others. Compute is the multiplications of the denoiser's matrix products, convolutions and
attention, counted and not timed; PSNR is against the plain pipeline from the same noise.

The result is written after every row, and rows that it has are not run again.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import autocache
from bench import CHOSEN_ON, MEASURED, OVER, SPEEDUPS, STEPS, Bench, figures
from cases import CASES
from own import ROWS_OF_THEIR_OWN, auto_with_invariant, grids, named
from peers import mag_ratios, peers
from tuned import CHECKED, attributes, few_steps, tuned
from variants import Variant

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "frontier.json"
LITTLE = 0.95
"""Compute above which what an exact strategy leaves is not worth a row."""
LIBRARIES = ("torch", "diffusers", "cache_dit", "DeepCache", "transformers")


def fewer_steps(bench: Bench) -> dict[str, Any]:
    """The plain pipeline with as many steps as the compute pays for."""
    paid = {speedup: math.floor(STEPS * OVER / speedup) for speedup in SPEEDUPS}
    return {
        str(speedup): figures(bench.trial(bench.measuring, named("fewer_steps"), {"steps": steps}))
        for speedup, steps in paid.items()
    }


def untuned(bench: Bench) -> dict[str, Any]:
    """The default strategy at each speed-up, nothing chosen."""
    return {
        str(speedup): figures(bench.trial(bench.measuring, named("auto"), {"speedup": speedup}))
        for speedup in SPEEDUPS
    }


def with_invariant(bench: Bench) -> dict[str, Any]:
    """The default strategy beside the exact one, where that is worth anything."""
    alone = bench.trial(bench.choosing, named("invariant"), {}).compute
    if alone > LITTLE:
        return {"does_not_apply": f"invariant leaves {alone:.1%} of the compute here"}
    return bench.row(auto_with_invariant(STEPS))


def rows(bench: Bench, again: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every row's name and how it is measured; `again` has profiles tuned that are there."""
    yield "fewer steps", lambda: fewer_steps(bench)
    yield "auto", lambda: untuned(bench)
    for name, variants in peers(bench.case, bench.guidance, STEPS).items():
        yield name, partial(peer, bench, variants)
    for name in sorted(info.name for info in autocache.strategies()):
        if name not in ROWS_OF_THEIR_OWN:
            yield name, partial(own, bench, name)
    yield "auto with invariant", lambda: with_invariant(bench)
    yield "tuned", lambda: tuned(bench, again=again)
    yield "attributes", lambda: attributes(bench)
    yield "few steps", lambda: few_steps(bench)


def own(bench: Bench, name: str) -> dict[str, Any]:
    """The row of a strategy of this library."""
    transformer = bench.case.denoiser == "transformer"
    measured = name == "magcache" and transformer
    ratios = mag_ratios(bench.pipe, STEPS, bench.choosing.run) if measured else None
    return bench.row(grids(ratios)[name])


def peer(bench: Bench, variants: list[Variant] | str) -> dict[str, Any]:
    """The row of another library's cache."""
    if isinstance(variants, str):
        return {"does_not_apply": variants}
    if variants[0].fixed.get("cache") == "MagCache":
        ratios = mag_ratios(bench.pipe, STEPS, bench.choosing.run)
        variants = [replace(one, fixed={**one.fixed, "mag_ratios": ratios}) for one in variants]
    return bench.row(variants)


def load() -> dict[str, Any]:
    """The figures so far: by pipeline, guidance and row."""
    return json.loads(RESULT.read_text())["figures"] if RESULT.is_file() else {}


def save(figures: Mapping[str, Any]) -> None:
    """Write the figures with what they were measured with."""
    result = {
        "command": "python benchmarks/frontier.py",
        "steps": STEPS,
        "prompts": MEASURED,
        "chosen_on": CHOSEN_ON,
        "checked": CHECKED,
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "figures": figures,
    }
    RESULT.write_text(json.dumps(result, indent=1, default=str) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="*", help='rows to run, as in "shapes/guided/cache-dit*" (a pattern)'
    )
    parser.add_argument("--redo", action="store_true", help="run rows again that are there already")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # cache-dit warns of what is usual at every installation
    benches = [Bench(case, guidance) for case in CASES.values() for guidance in (False, True)]
    # A row of every pipeline before the next one, so that what is there compares.
    for turn in zip_longest(*(rows(bench, options.redo) for bench in benches)):
        for bench, row in zip(benches, turn, strict=True):
            if row and fnmatch.fnmatch(f"{bench.name}/{row[0]}", options.only):
                add(bench, row[0], row[1], redo=options.redo)


def add(bench: Bench, name: str, measure: Callable[[], dict[str, Any]], *, redo: bool) -> None:
    """Measure a row and write it, unless it is there."""
    model, guidance = bench.name.split("/")
    if name in load().get(model, {}).get(guidance, {}) and not redo:
        return
    began = time.perf_counter()
    row = measure()
    figures = load()  # again: another process may have written meanwhile
    figures.setdefault(model, {}).setdefault(guidance, {})[name] = row
    save(figures)
    reached = {key: row[str(key)] for key in SPEEDUPS if "psnr" in row.get(str(key), {})}
    brief = {key: (found["psnr"], found["psnr_p10"]) for key, found in reached.items()}
    print(bench.name, name, brief or row, f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
