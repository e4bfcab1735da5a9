"""Measure how many caption attributes the video pipeline draws: `python tools/measure_wan.py`.

Draws held-out captions with the plain pipeline, reads the clips with the checker and writes
`measurement.json` into the model's folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers import WanPipeline

from autocache.demo.checker import share
from autocache.demo.clip_checker import check_clip
from autocache.demo.clips import CLIP_SIZE, FRAMES, held_out_clips, parse_clip
from measuring import write_measurement

BUNDLED = Path(__file__).resolve().parents[1] / "examples" / "models" / "shapes_wan"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=20)
    options = parser.parse_args()

    pipe = WanPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    captions = held_out_clips(options.prompts, options.seed)
    answers, began = [], time.perf_counter()
    for start in range(0, len(captions), options.batch):
        chunk = captions[start : start + options.batch]
        videos = pipe(
            prompt=chunk,
            height=CLIP_SIZE,
            width=CLIP_SIZE,
            num_frames=FRAMES,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=[
                torch.Generator().manual_seed(options.seed + start + row)
                for row in range(len(chunk))
            ],
            output_type="pt",
        ).frames
        answers += [
            check_clip(video.transpose(0, 1), parse_clip(caption))
            for video, caption in zip(videos, chunk, strict=True)
        ]
        print(f"{len(answers)}/{len(captions)} right {share(answers)[0]:.3f}", flush=True)
    write_measurement(options, answers, time.perf_counter() - began, "clips")


if __name__ == "__main__":
    sys.exit(main())
