"""Pipelines that insist on an encoder of text, with what it would have given drawn at random."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import torch


def _drawn(text: Any, *shape: int) -> torch.Tensor:
    """The same numbers for the same text."""
    random = torch.Generator().manual_seed(len(str(text)))
    return torch.randn(shape, generator=random)


class Fibo(diffusers.BriaFiboPipeline):
    """Its denoiser takes a layer of the text encoder for each of its blocks."""

    def encode_prompt(self, *_: Any, prompt: Any, negative_prompt: Any, **__: Any) -> tuple:
        texts = [prompt, negative_prompt or ""]
        embeds = [_drawn(text, 1, 6, 32) for text in texts]
        layers = [[_drawn(f"{n} {text}", 1, 6, 16) for n in range(9)] for text in texts]
        masks = [torch.ones(1, 6) for _ in texts]
        return *embeds, torch.zeros(1, 6, 3), *masks, *layers


class LongCat(diffusers.LongCatImagePipeline):
    """Its denoiser is called under the names of the branches."""

    def encode_prompt(self, prompt: Any = None, *_: Any, **__: Any) -> tuple:
        return _drawn(prompt, 1, 6, 32), torch.zeros(6, 3)


class Ideogram(diffusers.Ideogram4Pipeline):
    """Text and image are in one sequence, whose places are the encoder's to say."""

    def encode_prompt(
        self, prompt: Any, grid_h: int, grid_w: int, max_sequence_length: int, **_: Any
    ) -> tuple:
        text, image = max_sequence_length, grid_h * grid_w
        features = torch.cat([_drawn(prompt, 1, text, 24), torch.zeros(1, image, 24)], dim=1)
        places = torch.arange(text + image)[None, :, None].expand(1, -1, 3)
        roles = torch.tensor([[3] * text + [2] * image])
        return features, places, torch.ones_like(roles), roles


class Processor:
    """What `QwenImage21Pipeline` asks of its processor before any text is given."""

    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]
