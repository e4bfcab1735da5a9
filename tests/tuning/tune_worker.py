"""A tuning in a process of its own: `tune_worker.py STORAGE TRIALS STOP_AT PROFILE`.

It says each call of the denoiser that is spent before the first trial, and each trial; at the one
of number STOP_AT it waits for a line on standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import diffusers
import torch

import autocache
from autocache import demo
from autocache.demo.prompts import held_out

CALL = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": 6}
BUDGET = 15


def pipeline() -> Any:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tuned(pipe: Any, storage: str, tell: Callable[[Any, Any], None]) -> autocache.Profile:
    return autocache.tune(
        pipe,
        held_out(1, 0),
        speedup=2,
        budget=BUDGET,
        call=CALL,
        storage=storage,
        progress=lambda *_: nullcontext(tell),
    )


def main(storage: str, stop_at: str, profile: str) -> None:
    torch.set_num_threads(1)
    ran = 0

    def tell(study: Any, trial: Any) -> None:
        nonlocal ran
        ran += 1
        print(f"ran {trial.number}", flush=True)
        if ran == int(stop_at):
            print("waiting", flush=True)
            sys.stdin.readline()

    tuned(pipeline(), storage, tell).write(profile)


if __name__ == "__main__":
    main(*sys.argv[1:])
