"""What tuning finds on the bundled pipelines, what a checker still reads, and few steps."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

import autocache
from autocache.demo.checker import share
from autocache.metrics import psnr
from autocache.tuning.profile import Profile
from bench import SPEEDUPS, STEPS, Bench, figures
from variants import Variant

PROFILES = Path(__file__).resolve().parent / "results" / "profiles"
TUNED_ON = 24
CLIPS = {"shapes_wan": (12, 200)}
"""Prompts, and generations to spend, where one takes ten times as long as a picture."""
CHECKED = 100
FEW = (8, 4)
"""Steps of short generations."""
AT = 3
"""The speed-up at which attributes are read."""


def profile(bench: Bench, speedup: int, *, again: bool = False) -> Profile:
    """The profile in its file, or tuned on prompts and noise that nothing is measured on."""
    file = PROFILES / f"{bench.name.replace('/', '_')}_{speedup}x.yaml"
    if file.is_file() and not again:
        return Profile.read(file)
    measured = bench.measuring.inputs
    count, budget = CLIPS.get(bench.case.name, (TUNED_ON, None))
    prompts = [one for one in bench.case.prompts(4 * count, 2) if one not in measured]
    found = autocache.tune(
        bench.pipe,
        prompts[:count],
        held_out=prompts[count : count + 4],
        budget=budget,
        speedup=speedup,
        call=bench.case.call(bench.guidance, STEPS),
        seed=2000,
    )
    PROFILES.mkdir(exist_ok=True)
    found.write(file)
    return found


def tuned(bench: Bench, *, again: bool = False) -> dict[str, Any]:
    """The row of the profiles."""
    return {str(speedup): _measured(bench, speedup, again) for speedup in SPEEDUPS}


def _measured(bench: Bench, speedup: int, again: bool) -> dict[str, Any]:
    found = profile(bench, speedup, again=again)
    install = Variant(lambda pipe, _: autocache.patched(pipe, found))
    row = figures(bench.trial(bench.measuring, install, {}))
    seconds = found.measured and found.measured.seconds
    return row | {"settings": str(found.created()).split("(")[0], "tuning_seconds": seconds}


def attributes(bench: Bench) -> dict[str, Any]:
    """Share of a caption's attributes that the checker reads, uncached and at 3 times less."""
    prompts = bench.case.prompts(CHECKED, 0)
    workload = bench.workload(prompts, 0)
    found = profile(bench, AT)
    ways = {
        "plain": contextlib.nullcontext(),
        "auto": autocache.patched(bench.pipe, "auto", speedup=AT),
        "tuned": autocache.patched(bench.pipe, found),
    }
    rows: dict[str, Any] = {"prompts": CHECKED}
    for name, way in ways.items():
        with way:
            drawn = workload.run()
        pairs = zip(drawn.samples, prompts, strict=True)
        checks = [bench.case.check(np.asarray(sample), caption) for sample, caption in pairs]
        rows[name] = round(share(checks)[0], 4)
    return rows


def few_steps(bench: Bench) -> dict[str, Any]:
    """Generations of few steps at half their compute: PSNR in dB of `auto`, and of half the steps.

    Against as many uncached steps, as those of distilled models would be.
    """
    rows: dict[str, Any] = {}
    for steps in FEW:
        whole, _ = bench.draw(bench.measuring, num_inference_steps=steps)
        halved, _ = bench.draw(bench.measuring, num_inference_steps=steps // 2)
        with autocache.patched(bench.pipe, "auto", speedup=2):
            cached, _ = bench.draw(bench.measuring, num_inference_steps=steps)
        rows[str(steps)] = {
            "auto": round(float(np.mean(psnr(whole, cached))), 2),
            "fewer_steps": round(float(np.mean(psnr(whole, halved))), 2),
        }
    return rows
