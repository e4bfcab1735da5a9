"""The interface of an encoding: a tensor in, something smaller out, and the tensor again."""

from __future__ import annotations

import math
from typing import Protocol

import torch

Parts = tuple[torch.Tensor, ...]


class Encoding(Protocol):
    """A form in which tensors can be held. Nothing in it waits for the device."""

    name: str

    def size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        """Bytes that a dense tensor takes in this form, which its shape tells."""
        ...

    def encode(self, tensor: torch.Tensor) -> Parts:
        """What is held of a tensor."""
        ...

    def decode(self, parts: Parts, dtype: torch.dtype) -> torch.Tensor:
        """The tensor, which had that dtype, as far as its parts tell."""
        ...


class Held:
    """One tensor in some form; `shape`, `dtype` and `device` are those it had."""

    __slots__ = ("bytes", "device", "dtype", "encoding", "parts", "shape")
    away = False
    """Its bytes are on the host, and the device computes elsewhere."""
    as_it_is = False
    """It is the tensor itself, where that was."""

    def __init__(self, encoding: Encoding, tensor: torch.Tensor) -> None:
        self.encoding = encoding
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.parts = encoding.encode(tensor)
        self.bytes = sum(map(kept_alive, self.parts))

    @property
    def place(self) -> torch.device:
        """Where its bytes are."""
        return self.device

    def decode(self) -> torch.Tensor:
        return self.encoding.decode(self.parts, self.dtype)

    def exchange(self, tensor: torch.Tensor) -> bool:
        """Hold another tensor instead, where that leaves the books as they are."""
        return False


def plain_size(shape: torch.Size, dtype: torch.dtype) -> int:
    """Bytes of a dense tensor."""
    return math.prod(shape) * dtype.itemsize


def kept_alive(tensor: torch.Tensor) -> int:
    """Bytes that are not freed as long as a tensor is there: those of all it is a view of."""
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided:
        return tensor.numel() * tensor.element_size()
    return tensor.untyped_storage().nbytes()
