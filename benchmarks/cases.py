"""The bundled pipelines, and how each of them is called with and without guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from autocache import demo
from autocache.demo.clips import held_out_clips
from autocache.demo.prompts import held_out
from autocache.demo.single import held_out as held_out_single


@dataclass(frozen=True)
class Case:
    """A bundled pipeline and how it is called."""

    name: str
    pipeline: type
    prompts: Callable[[int, int], list[str]]
    """Of a count and a seed: captions of the held-out split."""
    arguments: dict[str, Any]
    plain: dict[str, Any]
    """Further arguments without classifier-free guidance."""
    guided: dict[str, Any]
    """Further arguments with it."""
    output: str
    """The field of the pipeline's result that holds what it drew."""
    denoiser: str
    branches: str
    """How guidance runs the denoiser: "batched" in one call, or "separate" calls for each."""

    def load(self) -> Any:
        """The pipeline, in single precision and silent."""
        pipe = self.pipeline.from_pretrained(demo.path(self.name), torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(self, guidance: bool, steps: int) -> dict[str, Any]:
        """The arguments of a call beside its prompts and noise."""
        further = self.guided if guidance else self.plain
        return {**self.arguments, **further, "num_inference_steps": steps}


CASES = {
    case.name: case
    for case in (
        Case(
            "shapes",
            diffusers.FluxPipeline,
            held_out,
            {"height": 64, "width": 64, "max_sequence_length": 24},
            {},
            {"true_cfg_scale": 4.0, "negative_prompt": ""},
            "images",
            "transformer",
            "separate",
        ),
        Case(
            "shapes_sd",
            diffusers.StableDiffusionPipeline,
            held_out_single,
            {"height": 64, "width": 64},
            {"guidance_scale": 1.0},
            {"guidance_scale": 4.0},
            "images",
            "unet",
            "batched",
        ),
        Case(
            "shapes_wan",
            diffusers.WanPipeline,
            held_out_clips,
            {"height": 32, "width": 32, "num_frames": 17},
            {"guidance_scale": 1.0},
            {"guidance_scale": 4.0},
            "frames",
            "transformer",
            "separate",
        ),
    )
}
