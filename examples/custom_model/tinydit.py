"""A small diffusion transformer in a style of its own: nothing of diffusers is in it.

Two streams of tokens travel together in a dataclass, arguments go by position, and what diffusers
calls `hidden_states`, `timestep` and `transformer_blocks` has other names here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass
class Streams:
    """Picture and text tokens, each (batch, tokens, width)."""

    picture: torch.Tensor
    text: torch.Tensor


class Mixer(nn.Module):
    """Attention of all tokens of both streams to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class Stage(nn.Module):
    """One block: attention over both streams, then an MLP, both modulated by the noise level."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 4 * width)
        self.mixer = Mixer(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, streams: Streams, level: torch.Tensor) -> Streams:
        length = streams.text.shape[1]
        scale_a, gate_a, scale_m, gate_m = self.modulation(level)[:, None].chunk(4, -1)
        tokens = torch.cat([streams.text, streams.picture], 1)
        tokens = tokens + gate_a * self.mixer(_normal(tokens) * (1 + scale_a))
        tokens = tokens + gate_m * self.mlp(_normal(tokens) * (1 + scale_m))
        return Streams(picture=tokens[:, length:], text=tokens[:, :length])


class TinyDiT(nn.Module):
    """Predicts the velocity of a picture: `model(noisy, sigma, caption)`.

    `noisy` is (batch, channels, side, side), `sigma` the noise level in [0, 1], shape (batch,), and
    `caption` (batch, tokens, width).
    """

    def __init__(self, channels: int = 4, width: int = 64, heads: int = 4, depth: int = 12) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels, width, 2, 2)
        self.level = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.words = nn.Linear(width, width)
        self.stages = nn.ModuleList(Stage(width, heads) for _ in range(depth))
        self.out = nn.ConvTranspose2d(width, channels, 2, 2)

    def forward(
        self, noisy: torch.Tensor, sigma: torch.Tensor, caption: torch.Tensor
    ) -> torch.Tensor:
        picture = self.into(noisy)
        grid = picture.shape[-2:]
        streams = Streams(picture.flatten(2).transpose(1, 2), self.words(caption))
        level = self.level(_waves(sigma))
        for stage in self.stages:
            streams = stage(streams, level)
        return self.out(_normal(streams.picture).transpose(1, 2).unflatten(2, grid))


def _normal(tokens: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:])


def _waves(sigma: torch.Tensor) -> torch.Tensor:
    angles = sigma[:, None] * torch.logspace(0, 2, 16, device=sigma.device)
    return torch.cat([angles.sin(), angles.cos()], -1)
