"""Floating-point tensors of more than two bytes as bfloat16."""

from __future__ import annotations

import torch

from autocache.runtime.encodings.base import Parts, plain_size


class BFloat16:
    """Rounded to the nearest of 8 significant bits: off by at most 2^-9 of each number.

    What has no more bytes than that, and what is no floating-point number, stays as it is.
    """

    name = "bf16"

    def size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        return plain_size(shape, _stored(dtype))

    def encode(self, tensor: torch.Tensor) -> Parts:
        return (tensor.to(_stored(tensor.dtype)),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> torch.Tensor:
        return parts[0].to(dtype)


def _stored(dtype: torch.dtype) -> torch.dtype:
    narrows = dtype.is_floating_point and dtype.itemsize > torch.bfloat16.itemsize
    return torch.bfloat16 if narrows else dtype
