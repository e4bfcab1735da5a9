"""Measure how many caption attributes the video pipeline draws: `python tools/measure_wan.py`.

Draws held-out captions with the plain pipeline, reads the clips with the checker and writes
`measurement.json` into the model's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import WanPipeline

from autocache.demo.clip_checker import check_clip
from autocache.demo.clips import CLIP_SIZE, FRAMES, held_out_clips, parse_clip
from measuring import measure, read_options

BUNDLED = Path(__file__).resolve().parents[1] / "examples" / "models" / "shapes_wan"


def main() -> None:
    options = read_options(__doc__, BUNDLED, prompts=120, steps=30, guidance=3.0, batch=20)
    pipe = WanPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)

    def draw(captions: list[str], generators: list[torch.Generator]) -> torch.Tensor:
        return pipe(
            prompt=captions,
            height=CLIP_SIZE,
            width=CLIP_SIZE,
            num_frames=FRAMES,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generators,
            output_type="pt",
        ).frames

    def check(video: torch.Tensor, caption: str) -> dict[str, bool]:
        return check_clip(video.transpose(0, 1), parse_clip(caption))

    measure(options, held_out_clips(options.prompts, options.seed), draw, check, "clips")


if __name__ == "__main__":
    sys.exit(main())
