"""What tuning finds on the bundled pipelines, and generations of few steps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

import autocache
from autocache.metrics import mean_psnr, psnr
from autocache.tuning.profile import Profile
from autocache.tuning.workload import Workload
from bench import HELD_OUT, SPEEDUPS, STEPS, Bench
from records import RESULTS
from variants import Variant

PROFILES = RESULTS / "profiles"
CLIPS_BUDGET = 200
"""Generations to spend on a clip's profile, where one takes several times as long."""
FEW = (8, 4)
"""Steps of short generations."""
FEW_PROMPTS = 16
"""How many of the prompts those are measured on."""


def profile(bench: Bench, speedup: int, *, again: bool = False) -> Profile:
    """The profile in its file, or tuned on prompts and noise that nothing is measured on."""
    file = _file(bench, speedup)
    if file.is_file() and not again:
        return Profile.read(file)
    found = autocache.tune(
        bench.pipe,
        bench.tuning[:-HELD_OUT],
        held_out=bench.tuning[-HELD_OUT:],
        budget=CLIPS_BUDGET if bench.case.name == "shapes_wan" else None,
        speedup=speedup,
        call=bench.case.call(bench.guidance, STEPS),
        seed=2000,
    )
    PROFILES.mkdir(exist_ok=True)
    found.write(file)
    return found


def tuned(bench: Bench, speedup: int, *, again: bool = False) -> tuple[Variant, dict[str, Any]]:
    """The profile as a variant, and which one it is."""
    found = profile(bench, speedup, again=again)
    name = _file(bench, speedup).name
    return Variant(lambda pipe, _: autocache.patched(pipe, found)), {"profile": name}


def _file(bench: Bench, speedup: int) -> Path:
    return PROFILES / f"{bench.name.replace('/', '_')}_{speedup}x.yaml"


def few_steps(bench: Bench) -> dict[str, Any]:
    """Generations of few steps at half their compute: PSNR in dB of `auto`, and of half the steps.

    Against as many uncached steps, as those of distilled models would be.
    """
    workload = bench.workload(bench.measured[:FEW_PROMPTS], 0)
    plain = functools.cache(lambda steps: _draw(workload, steps))

    rows: dict[str, Any] = {}
    for steps in FEW:
        with autocache.patched(bench.pipe, "auto", speedup=SPEEDUPS[0]):
            cached = _draw(workload, steps)
        rows[str(steps)] = {
            "auto": round(mean_psnr(psnr(plain(steps), cached)), 2),
            "fewer_steps": round(mean_psnr(psnr(plain(steps), plain(steps // 2))), 2),
        }
    return rows


def _draw(workload: Workload, steps: int) -> np.ndarray:
    """A row of values for each sample."""
    return np.stack([one.ravel() for one in workload.run(num_inference_steps=steps).samples])
