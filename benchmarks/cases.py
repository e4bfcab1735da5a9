"""The bundled pipelines, and how each of them is called with and without guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch

from autocache import demo
from autocache.demo import checker, clips, single, single_checker
from autocache.demo.clip_checker import check_clip
from autocache.demo.prompts import held_out
from autocache.demo.scenes import parse


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
    check: Callable[[np.ndarray, str], dict[str, bool]]
    """Of what was drawn and its caption: which attributes it shows."""

    def load(self) -> Any:
        """The pipeline, in single precision and silent."""
        pipe = self.pipeline.from_pretrained(demo.path(self.name), torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(self, guidance: bool, steps: int) -> dict[str, Any]:
        """The arguments of a call beside its prompts and noise."""
        further = self.guided if guidance else self.plain
        return {**self.arguments, **further, "num_inference_steps": steps}


def _first(drawn: np.ndarray) -> torch.Tensor:
    """With its channels first, as the checkers have them."""
    return torch.from_numpy(drawn).movedim(-1, 0)


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
            lambda picture, caption: checker.check(_first(picture), parse(caption)),
        ),
        Case(
            "shapes_sd",
            diffusers.StableDiffusionPipeline,
            single.held_out,
            {"height": 64, "width": 64},
            {"guidance_scale": 1.0},
            {"guidance_scale": 4.0},
            "images",
            "unet",
            "batched",
            lambda picture, caption: single_checker.check(_first(picture), single.parse(caption)),
        ),
        Case(
            "shapes_wan",
            diffusers.WanPipeline,
            clips.held_out_clips,
            {"height": 32, "width": 32, "num_frames": 17},
            {"guidance_scale": 1.0},
            {"guidance_scale": 4.0},
            "frames",
            "transformer",
            "separate",
            lambda clip, caption: check_clip(_first(clip), clips.parse_clip(caption)),
        ),
    )
}
