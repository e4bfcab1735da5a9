"""Tensors as they are."""

from __future__ import annotations

import torch

from autocache.runtime.encodings.base import Held, Parts, kept_alive, plain_size


class Plain:
    """Nothing is changed."""

    name = "as it is"

    def size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        return plain_size(shape, dtype)

    def encode(self, tensor: torch.Tensor) -> Parts:
        return (tensor,)

    def decode(self, parts: Parts, dtype: torch.dtype) -> torch.Tensor:
        return parts[0]


PLAIN = Plain()


class HeldAsIs(Held):
    """The tensor itself. In every step every place makes one or holds another tensor in it, in the
    midst of the model's own work: nothing is called that need not be."""

    __slots__ = ()
    as_it_is = True

    def __init__(self, tensor: torch.Tensor) -> None:
        self.encoding = PLAIN
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.parts = (tensor,)
        self.bytes = kept_alive(tensor)

    def decode(self) -> torch.Tensor:
        return self.parts[0]

    def exchange(self, tensor: torch.Tensor) -> bool:
        """If it takes as many bytes of the same device, and keeps no more alive."""
        size = tensor.nbytes
        if self.bytes != size or kept_alive(tensor) != size or tensor.device != self.device:
            return False
        self.shape, self.dtype, self.parts = tensor.shape, tensor.dtype, (tensor,)
        return True
