"""Finds the best way to run a pipeline three times as fast, and writes it as a profile.

    pip install '.[tune]'
    python examples/tune.py

Few prompts and trials, so that it is done in a minute; two dozen prompts find better profiles. The
same from the command line: `autocache tune MODEL --prompts prompts.txt --speedup 3 -o fast.yaml`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline

import autocache
from autocache.demo.prompts import held_out
from autocache.metrics import psnr

CALL = {"num_inference_steps": 14, "height": 64, "width": 64, "max_sequence_length": 24}
OUT = Path("build/examples/fast.yaml")


def draw(pipe: Any, prompts: list[str]) -> tuple[np.ndarray, float]:
    """Pictures as floats (prompts, 64, 64, 3) in [0, 1], and their seconds."""
    began = time.perf_counter()
    noise = torch.Generator().manual_seed(7)
    pictures = pipe(prompts, generator=noise, output_type="np", **CALL).images
    return pictures, time.perf_counter() - began


def main() -> None:
    pipe = FluxPipeline.from_pretrained(autocache.demo.path())
    pipe.set_progress_bar_config(disable=True)
    prompts = held_out(8)

    profile = autocache.tune(pipe, prompts[:6], speedup=3, call=CALL, budget=40)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    profile.write(OUT)
    print(f"wrote {OUT}; on prompts it was not tuned on:")

    plain, without = draw(pipe, prompts[6:])
    for choice in (OUT, ("auto", {"speedup": 3})):
        with autocache.patched(pipe, choice) as patch:
            cached, seconds = draw(pipe, prompts[6:])
        nearness = psnr(plain, cached)
        print(
            f"{patch.strategy.name}: {patch.stats().denoiser} calls run, "
            f"{without / seconds:.2f} times as fast, PSNR {sum(nearness) / len(nearness):.1f} dB"
        )


if __name__ == "__main__":
    main()
