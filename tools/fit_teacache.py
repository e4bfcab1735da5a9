"""TeaCache coefficients of the bundled transformers: `python tools/fit_teacache.py`.

What `autocache calibrate` does, on the bundled prompts and without guidance, with the probe that
tells most. Prints, for each pipeline, what belongs into the `teacache` list of its denoiser's spec:
there as `provenance: bundled`, with this tool as the source, and with a `match` in place of the
checkpoint's name. It is forced: the figures say what the tables are worth, which is to be shown and
not to be copied.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

import autocache
from autocache import demo
from autocache.demo.clips import held_out_clips
from autocache.demo.prompts import held_out


@dataclass(frozen=True)
class Case:
    """A bundled pipeline and how it is called, without guidance."""

    pipeline: type
    prompts: Callable[[int], list[str]]
    arguments: dict[str, Any]


CASES = {
    "shapes": Case(
        diffusers.FluxPipeline, held_out, {"height": 64, "width": 64, "max_sequence_length": 24}
    ),
    "shapes_wan": Case(
        diffusers.WanPipeline,
        held_out_clips,
        {"height": 32, "width": 32, "num_frames": 17, "guidance_scale": 1.0},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--order", type=int, default=4)
    options = parser.parse_args()
    for name, case in CASES.items():
        pipe: Any = case.pipeline
        pipe = pipe.from_pretrained(demo.path(name), torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        made = autocache.calibrate(
            pipe,
            case.prompts(options.prompts),
            strategy="teacache",
            call={**case.arguments, "num_inference_steps": options.steps},
            order=options.order,
            force=True,
            id=name,
        )
        print(made.to_yaml(), end="")


if __name__ == "__main__":
    main()
