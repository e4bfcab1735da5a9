"""Measure how many caption attributes the bundled pipeline draws: `python tools/measure_demo.py`.

Draws held-out prompts with the plain pipeline, reads the pictures with the checker and writes
`measurement.json` into the model's folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers import FluxPipeline

from autocache.demo import checker
from autocache.demo.prompts import held_out
from autocache.demo.scenes import parse
from measuring import write_measurement

BUNDLED = Path(__file__).resolve().parents[1] / "autocache" / "demo" / "models" / "shapes"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=25)
    options = parser.parse_args()

    pipe = FluxPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    captions = held_out(options.prompts, options.seed)
    answers, began = [], time.perf_counter()
    for start in range(0, len(captions), options.batch):
        chunk = captions[start : start + options.batch]
        images = pipe(
            prompt=chunk,
            negative_prompt=[""] * len(chunk) if options.guidance > 1 else None,
            true_cfg_scale=options.guidance,
            num_inference_steps=options.steps,
            height=64,
            width=64,
            max_sequence_length=24,
            generator=[
                torch.Generator().manual_seed(options.seed + start + row)
                for row in range(len(chunk))
            ],
            output_type="pt",
        ).images
        answers += [
            checker.check(image, parse(caption))
            for image, caption in zip(images, chunk, strict=True)
        ]
        print(f"{len(answers)}/{len(captions)} right {checker.share(answers)[0]:.3f}", flush=True)

    write_measurement(options, answers, time.perf_counter() - began, "pictures")


if __name__ == "__main__":
    sys.exit(main())
