"""Measure how many caption attributes the bundled pipeline draws: `python tools/measure_demo.py`.

Draws held-out prompts with the plain pipeline, reads the pictures with the checker and writes
`measurement.json` into the model's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import FluxPipeline

from autocache.demo import checker
from autocache.demo.prompts import held_out
from autocache.demo.scenes import parse
from measuring import measure, read_options

BUNDLED = Path(__file__).resolve().parents[1] / "autocache" / "demo" / "models" / "shapes"


def main() -> None:
    options = read_options(__doc__, BUNDLED, prompts=200, steps=28, guidance=1.0, batch=25)
    pipe = FluxPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw(captions: list[str], generators: list[torch.Generator]) -> torch.Tensor:
        return pipe(
            prompt=captions,
            negative_prompt=[""] * len(captions) if options.guidance > 1 else None,
            true_cfg_scale=options.guidance,
            num_inference_steps=options.steps,
            height=64,
            width=64,
            max_sequence_length=24,
            generator=generators,
            output_type="pt",
        ).images

    def check(image: torch.Tensor, caption: str) -> dict[str, bool]:
        return checker.check(image, parse(caption))

    measure(options, held_out(options.prompts, options.seed), draw, check, "pictures")


if __name__ == "__main__":
    sys.exit(main())
