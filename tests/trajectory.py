"""A bare sampling loop along a smooth path from noise to a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import tiny

NAMES = tuple(name for name in tiny.NAMES if "hidden_states" in tiny.SHAPES[name])
"""The denoisers with block stacks."""

FLOW_TIME = ("FluxTransformer2DModel", "QwenImageTransformer2DModel")
"""Take the timestep from 0 to 1, the others from 0 to 1000."""

SPAN = 0.6
"""Share of the path that the steps cover: it keeps the changes between steps gentle."""


def path(name: str, steps: int) -> Iterator[tuple[torch.Tensor, float]]:
    """The latent and the timestep of each step."""
    generator = torch.Generator().manual_seed(3)
    shape = tiny.SHAPES[name]["hidden_states"]
    noise, picture = (torch.randn(shape, generator=generator) for _ in range(2))
    for step in range(steps):
        # Faster in the middle, so that the changes are not all alike.
        share = step / steps
        sigma = 1 - SPAN * share * share * (3 - 2 * share)
        yield torch.lerp(picture, noise, sigma), sigma * (1 if name in FLOW_TIME else 1000)


@torch.no_grad()
def run(
    model: nn.Module, inputs: Callable[[float], dict[str, Any]], steps: int, context: bool = False
) -> list[torch.Tensor]:
    """The prediction of each step; with `context` announced as diffusers' pipelines do."""
    outputs = []
    announced: Any = getattr(model, "cache_context", None)
    for latent, time in path(type(model).__name__, steps):
        given = inputs(time) | {"hidden_states": latent}
        with announced("cond") if context else contextlib.nullcontext():
            outputs.append(model(**given)[0].clone())
    return outputs


def calls(model: nn.Module, inner: nn.Module) -> list[int]:
    """Counts, per denoiser call, how often a module really ran."""
    counts: list[int] = []
    model.register_forward_pre_hook(lambda *_: counts.append(0))
    inner.register_forward_hook(lambda *_: counts.__setitem__(-1, counts[-1] + 1))
    return counts
