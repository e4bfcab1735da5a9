"""A real run of the bundled pipeline, with its blocks counted from outside."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline

import autocache
from devices import DEVICE

PROMPTS = ["a large red circle on a white background", "<script>alert('x')</script> & a square"]
STEPS = 12


def pipeline() -> Any:
    pipe = FluxPipeline.from_pretrained(autocache.demo.path("shapes")).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any) -> np.ndarray:
    """Pictures as floats, (2, 64, 64, 3), with guidance: two denoiser calls a step."""
    return pipe(
        PROMPTS,
        negative_prompt=["", ""],
        true_cfg_scale=2.0,
        num_inference_steps=STEPS,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images


def counted(model: torch.nn.Module) -> Counter[str]:
    """How often each block runs from now on, by its name."""
    seen: Counter[str] = Counter()
    for stack in ("transformer_blocks", "single_transformer_blocks"):
        for index, block in enumerate(model.get_submodule(stack).children()):
            name = f"{stack}[{index}]"
            block.register_forward_hook(lambda *_, name=name: seen.update([name]))
    return seen
