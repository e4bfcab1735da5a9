"""Tensors as they are."""

from __future__ import annotations

import torch

from autocache.runtime.encodings.base import Parts, plain_size


class Plain:
    """Nothing is changed."""

    name = "as it is"

    def size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        return plain_size(shape, dtype)

    def encode(self, tensor: torch.Tensor) -> Parts:
        return (tensor,)

    def decode(self, parts: Parts, dtype: torch.dtype) -> torch.Tensor:
        return parts[0]
