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

import numpy as np

import autocache
from autocache.metrics import psnr
from autocache.tuning.workload import Workload
from cases import CASES, Case
from own import ROWS_OF_THEIR_OWN, auto, auto_with_invariant, grids
from peers import mag_ratios, peers
from variants import Trial, Variant, best, trials

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "frontier.json"
SPEEDUPS = (2, 3, 4)
STEPS = 28
MEASURED, CHOSEN_ON = 16, 4
OVER = 1.02
"""How far the compute of a setting may lie above what the speed-up allows."""
LIBRARIES = ("torch", "diffusers", "cache_dit", "DeepCache", "transformers")


class Bench:
    """A bundled pipeline, with or without guidance, and the prompts it is measured on."""

    def __init__(self, case: Case, guidance: bool) -> None:
        self.case, self.guidance = case, guidance
        self.name = f"{case.name}/{'guided' if guidance else 'plain'}"
        self.pipe = case.load()
        measured = case.prompts(MEASURED, 0)
        others = [one for one in case.prompts(4 * CHOSEN_ON, 1) if one not in measured]
        self.measuring = self._workload(measured, 0)
        self.choosing = self._workload(others[:CHOSEN_ON], 1000)
        self._plain: dict[int, tuple[np.ndarray, int]] = {}

    def _workload(self, prompts: list[str], seed: int) -> Workload:
        return Workload(
            self.pipe, prompts, call=self.case.call(self.guidance, STEPS), seed=seed, batch=8
        )

    def draw(self, workload: Workload, **arguments: Any) -> tuple[np.ndarray, int]:
        """What was drawn, one row of values in [0, 1] for each sample, and the compute."""
        drawn = workload.run(count=True, **arguments)
        assert drawn.compute
        return np.stack([one.ravel() for one in drawn.samples]), drawn.compute

    def plain(self, workload: Workload) -> tuple[np.ndarray, int]:
        """The same of the plain pipeline at the full number of steps."""
        key = id(workload)
        if key not in self._plain:
            self._plain[key] = self.draw(workload)
        return self._plain[key]

    def against(self, workload: Workload, **arguments: Any) -> tuple[float, list[float]]:
        """Compute as a share of the plain pipeline's, and PSNR of each sample."""
        reference, cost = self._plain[id(workload)]
        samples, spent = self.draw(workload, **arguments)
        return spent / cost, psnr(reference, samples)

    def trial(self, workload: Workload, variant: Variant, parameters: dict[str, Any]) -> Trial:
        """A setting on a workload."""
        self.plain(workload)
        with variant.install(self.pipe, parameters):
            compute, each = self.against(workload)
        return Trial(variant, parameters, compute, each)

    def row(self, variants: list[Variant]) -> dict[str, Any]:
        """The best of a method's settings at each speed-up, or why it does not apply."""
        failures: dict[str, int] = {}
        done: list[Trial] = []

        def attempt(variant: Variant, parameters: dict[str, Any]) -> Trial:
            trial = self.trial(self.choosing, variant, parameters)
            done.append(trial)
            return trial

        limits = [OVER / speedup for speedup in SPEEDUPS]
        for variant in variants:
            try:
                trials([variant], limits, attempt)
            except Exception as error:  # a peer may raise anything
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                failures[reason] = failures.get(reason, 0) + 1
        if not done:
            return {"does_not_apply": next(iter(failures))}
        row: dict[str, Any] = {
            "settings_tried": len(done),
            "least_compute": round(min(trial.compute for trial in done), 4),
        }
        if failures:
            row["failed"] = failures
        return row | {str(speedup): found for speedup, found in self._measured(done)}

    def _measured(self, done: list[Trial]) -> Iterator[tuple[int, dict[str, Any]]]:
        measured: dict[str, Trial] = {}
        for speedup in SPEEDUPS:
            chosen = best(done, OVER / speedup)
            if chosen is None:
                continue
            key = f"{id(chosen.variant)} {chosen.parameters}"
            if key not in measured:
                measured[key] = self.trial(self.measuring, chosen.variant, chosen.parameters)
            yield speedup, figures(measured[key]) | {"chosen_at": round(chosen.mean, 2)}


def figures(trial: Trial) -> dict[str, Any]:
    """What is written of a measured setting."""
    return {
        "settings": trial.parameters,
        "compute": round(trial.compute, 4),
        "psnr": round(trial.mean, 2),
        "psnr_p10": round(float(np.percentile(trial.psnr, 10)), 2),
        "worst": round(min(trial.psnr), 2),
    }


def fewer_steps(bench: Bench) -> dict[str, Any]:
    """The plain pipeline with as many steps as the compute pays for."""
    bench.plain(bench.measuring)
    row = {}
    for speedup in SPEEDUPS:
        steps = math.floor(STEPS * OVER / speedup)
        compute, each = bench.against(bench.measuring, num_inference_steps=steps)
        row[str(speedup)] = figures(Trial(Variant(_nothing), {"steps": steps}, compute, each))
    return row


def _nothing(*_: Any) -> Any:
    raise NotImplementedError


def untuned(bench: Bench) -> dict[str, Any]:
    """The default strategy at each speed-up, nothing chosen."""
    return {
        str(speedup): figures(bench.trial(bench.measuring, auto(), {"speedup": speedup}))
        for speedup in SPEEDUPS
    }


def rows(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every row's name and how it is measured."""
    yield "fewer steps", lambda: fewer_steps(bench)
    yield "auto", lambda: untuned(bench)
    yield "auto with invariant", lambda: bench.row(auto_with_invariant())
    for name, variants in peers(bench.case, bench.guidance, STEPS).items():
        yield name, partial(peer, bench, variants)
    for name in sorted(info.name for info in autocache.strategies()):
        if name not in ROWS_OF_THEIR_OWN:
            yield name, partial(own, bench, name)


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
    logging.disable(logging.INFO)  # cache-dit reports every step of its installation
    benches = [Bench(case, guidance) for case in CASES.values() for guidance in (False, True)]
    # A row of every pipeline before the next one, so that what is there compares.
    for turn in zip_longest(*(rows(bench) for bench in benches)):
        for bench, row in zip(benches, turn, strict=True):
            if row and fnmatch.fnmatch(f"{bench.name}/{row[0]}", options.only):
                add(bench, row[0], row[1], redo=options.redo)


def add(bench: Bench, name: str, measure: Callable[[], dict[str, Any]], *, redo: bool) -> None:
    """Measure a row and write it, unless it is there."""
    figures = load()
    model, guidance = bench.name.split("/")
    section = figures.setdefault(model, {}).setdefault(guidance, {})
    if name in section and not redo:
        return
    began = time.perf_counter()
    section[name] = row = measure()
    save(figures)
    brief = {key: (row[key]["psnr"], row[key]["psnr_p10"]) for key in "234" if key in row}
    print(bench.name, name, brief or row, f"{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
