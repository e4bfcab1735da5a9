"""The gated attention residual of a block, put together from what its own sub-modules return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Seen = dict[str, Any]


def _image(attended: Any) -> torch.Tensor:
    return attended[0] if isinstance(attended, tuple) else attended


GATES: dict[str, Callable[[Any, Seen], torch.Tensor]] = {
    "FluxTransformer2DModel": lambda block, seen: seen["norm1"][1].unsqueeze(1),
    "HunyuanVideoTransformer3DModel": lambda block, seen: seen["norm1"][1].unsqueeze(1),
    "DiTTransformer2DModel": lambda block, seen: seen["norm1"][1].unsqueeze(1),
    "CogVideoXTransformer3DModel": lambda block, seen: seen["norm1"][2],
    "WanTransformer3DModel": lambda block, seen: (
        block.scale_shift_table + seen["given"]["temb"].float()
    ).chunk(6, dim=1)[2],
    "QwenImageTransformer2DModel": lambda block, seen: (
        block.img_mod(seen["given"]["temb"]).chunk(6, dim=-1)[2].unsqueeze(1)
    ),
}


def watch(model: str, block: nn.Module) -> Callable[[], torch.Tensor]:
    """A function that tells the residual of the block's last run."""
    seen: Seen = {}
    arguments = inspect.signature(block.forward)

    def given(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["given"] = arguments.bind(*args, **kwargs).arguments

    block.register_forward_pre_hook(given, with_kwargs=True)
    attention: Any = block.attn if hasattr(block, "attn") else block.attn1
    attention.register_forward_hook(lambda *called: seen.update(attention=_image(called[-1])))
    if hasattr(block, "norm1"):
        norm: Any = block.norm1
        norm.register_forward_hook(lambda *called: seen.update(norm1=called[-1]))
    return lambda: GATES[model](block, seen) * seen["attention"]
