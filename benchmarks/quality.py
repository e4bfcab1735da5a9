"""The best picture for the compute, of every method: `python benchmarks/quality.py`.

On each bundled pipeline, with and without classifier-free guidance, at 2, 3 and 4 times less
compute: fewer steps, every strategy, and the caches of other libraries, each at the best of many
settings that reach that compute. Settings are chosen on prompts and noise of their own and measured
on others. Compute is the multiply-accumulates of the denoiser's matrix products, convolutions and
attention over the whole generation, counted and not timed; PSNR and SSIM are against the plain
pipeline from the same noise, on floats.

Time is a pass of its own, `--time`, for when the machine is quiet: of settings that were measured,
the ratio to the plain pipeline, in turns within this process.

Every row is written as soon as it is there, and rows that are there are not run again. Several runs
may work at the same time, on rows of their own (`--only`).
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from bench import CHOSEN_ON, MEASURED, OVER, STEPS, Bench
from cases import CASES
from machine import host, versions
from methods import names, settled
from records import Records
from tuned import FEW_PROMPTS, few_steps
from turns import PROMPTS, TURNS, ratio

COMMAND = "python benchmarks/quality.py"
PLAIN, FEW_STEPS = "plain", "few steps"
LIBRARIES = ("cache_dit", "DeepCache", "transformers")
ABOUT = {
    "command": COMMAND,
    "machine": host(),
    "versions": versions(*LIBRARIES),
    "steps": STEPS,
}
KEPT = Records("settings", {**ABOUT, "prompts": CHOSEN_ON})
DONE = Records(
    "quality",
    {
        **ABOUT,
        "prompts": MEASURED,
        "chosen_on": CHOSEN_ON,
        "over": OVER,
        "few_steps_on": FEW_PROMPTS,
        "timed": {"command": f"{COMMAND} --time", "prompts": PROMPTS, "turns": TURNS},
    },
)


def measure(bench: Bench, name: str) -> dict[str, Any]:
    """A row: what is best at each speed-up, or why there is nothing."""
    if name == PLAIN:
        return bench.uncached()
    if name == FEW_STEPS:
        return few_steps(bench)
    row, reached = settled(bench, name, KEPT)
    known: dict[str, dict[str, Any]] = {}
    for speedup, setting in reached.items():
        key = str(setting.parameters)
        if key not in known:
            known[key] = bench.measure(setting.variant, dict(setting.parameters))
        row[str(speedup)] = {**known[key], **setting.told}
    return row


def timed(bench: Bench, name: str) -> dict[str, Any] | None:
    """The row with the time of each of its settings; None where there is nothing to add."""
    row = DONE.rows(bench.name).get(name, {})
    todo = {key: one for key, one in row.items() if _is_open(one)}
    if not todo:
        return None
    _, reached = settled(bench, name, KEPT)
    for speedup, setting in reached.items():
        if str(speedup) in todo:
            row[str(speedup)]["time"] = ratio(bench, setting.variant, dict(setting.parameters))
    return row


def _is_open(cell: Any) -> bool:
    return isinstance(cell, Mapping) and "compute" in cell and "time" not in cell


def attempt(bench: Bench, name: str, work: Callable[[Bench, str], dict[str, Any] | None]) -> None:
    """One row; another is tried if it fails."""
    began = time.perf_counter()
    try:
        # That a pipeline is not here is the fault of no method, as what these raise is taken for.
        assert bench.pipe is not None
        row = work(bench, name)
    except Exception:
        print(bench.name, name, "failed", flush=True)
        traceback.print_exc()
        return
    if row is None:
        return
    DONE.add(bench.name, name, row)
    cells = {key: one for key, one in row.items() if isinstance(one, Mapping) and "psnr" in one}
    brief = {key: (one["psnr"], one["psnr_p10"], one["compute"]) for key, one in cells.items()}
    spent = f"{time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of CPU so far"
    print(bench.name, name, brief or row, spent, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", default=["*"], help='patterns of rows: "shapes/guided/cache-dit*"'
    )
    parser.add_argument("--redo", action="store_true", help="run rows again that are there already")
    parser.add_argument("--time", action="store_true", help="time what was measured, nothing else")
    options = parser.parse_args()
    # cache-dit warns of what is usual at every installation.
    logging.disable(logging.WARNING)
    benches = [Bench(case, guidance) for case in CASES.values() for guidance in (False, True)]
    rows = {bench.name: [PLAIN, *names(bench), FEW_STEPS] for bench in benches}
    # A row of every pipeline before the next one, so that what is there compares.
    for name in rows[benches[0].name]:
        for bench in benches:
            if not any(fnmatch.fnmatch(f"{bench.name}/{name}", one) for one in options.only):
                continue
            if options.time:
                attempt(bench, name, timed)
            elif options.redo or name not in DONE.rows(bench.name):
                attempt(bench, name, measure)


if __name__ == "__main__":
    main()
