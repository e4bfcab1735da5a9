"""Measure how many caption attributes the SD-shaped pipeline draws: `python tools/measure_sd.py`.

Draws held-out captions with the plain pipeline, reads the pictures with the checker and writes
`measurement.json` into the model's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from autocache.demo.single import held_out, parse
from autocache.demo.single_checker import check
from measuring import measure, read_options

BUNDLED = Path(__file__).resolve().parents[1] / "examples" / "models" / "shapes_sd"


def main() -> None:
    options = read_options(__doc__, BUNDLED, prompts=200, steps=50, guidance=4.0, batch=25)
    pipe = StableDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)

    def draw(captions: list[str], generators: list[torch.Generator]) -> torch.Tensor:
        return pipe(
            prompt=captions,
            height=64,
            width=64,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generators,
            output_type="pt",
        ).images

    measure(
        options,
        held_out(options.prompts, options.seed),
        draw,
        lambda image, caption: check(image, parse(caption)),
        "pictures",
    )


if __name__ == "__main__":
    sys.exit(main())
