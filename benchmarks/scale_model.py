"""A Flux transformer of tiny width in any number of blocks, tokens and samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from loops import Loop

WIDTH = 16
TEXT = 8
"""Tokens of the prompt, which go through all blocks with those of the picture."""


@dataclass(frozen=True)
class Size:
    """How large a generation is."""

    blocks: int = 12
    tokens: int = 64
    batch: int = 1
    steps: int = 12

    @property
    def one(self) -> int:
        """Bytes of the features of all tokens between two blocks: s in the formulas."""
        return self.batch * (self.tokens + TEXT) * WIDTH * 4


def build(size: Size) -> Loop:
    """A third of the blocks has two streams, as in FLUX.1."""
    torch.manual_seed(0)
    double = size.blocks // 3
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=double,
        num_single_layers=size.blocks - double,
        attention_head_dim=WIDTH,
        num_attention_heads=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler()
    return Loop(
        model=model.requires_grad_(False),
        scheduler=scheduler,
        pipeline=pipeline(scheduler, model),
        latent=torch.randn(size.batch, size.tokens, 4),
        branches={"cond": _given(size)},
        time_scale=1e-3,
    )


def pipeline(scheduler: Any, model: FluxTransformer2DModel) -> FluxPipeline:
    """A pipeline without encoders."""
    nothing: Any = None
    return FluxPipeline(
        scheduler=scheduler,
        vae=nothing,
        text_encoder=nothing,
        tokenizer=nothing,
        text_encoder_2=nothing,
        tokenizer_2=nothing,
        transformer=model,
    )


def _given(size: Size) -> dict[str, Any]:
    return {
        "encoder_hidden_states": torch.randn(size.batch, TEXT, WIDTH),
        "pooled_projections": torch.randn(size.batch, WIDTH),
        "img_ids": torch.zeros(size.tokens, 3),
        "txt_ids": torch.zeros(TEXT, 3),
    }
