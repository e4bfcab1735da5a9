"""One byte for each number, and a scale for every channel of every sample."""

from __future__ import annotations

import math

import torch

from autocache.runtime.encodings.base import Parts, plain_size

_TINY = torch.finfo(torch.float32).tiny


class Scaled:
    """Symmetric: each number is divided by `max|x| / most` of its channel and rounded.

    Channels are the last axis, as in (batch, tokens, channels), and samples the first; a tensor of
    one or two axes is one sample. Scales are in float32, of float64 in float64. A channel with
    something in it that is not finite comes back not finite as a whole: none of it passes for a
    number. What has no fewer bytes so, and what is no floating-point number, stays as it is.
    """

    name: str
    dtype: torch.dtype
    most: float

    def size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        plain = plain_size(shape, dtype)
        return min(plain, self._size(shape, dtype)) if dtype.is_floating_point else plain

    def _size(self, shape: torch.Size, dtype: torch.dtype) -> int:
        shared = _shared(len(shape))
        scales = math.prod(count for axis, count in enumerate(shape) if axis not in shared)
        return plain_size(shape, self.dtype) + scales * _wide(dtype).itemsize

    def encode(self, tensor: torch.Tensor) -> Parts:
        if self.size(tensor.shape, tensor.dtype) == plain_size(tensor.shape, tensor.dtype):
            return (tensor,)
        wide = tensor.to(_wide(tensor.dtype))
        largest = wide.abs().amax(_shared(tensor.ndim), keepdim=True)
        # Clamped, so that a channel of zeros, or of next to nothing, is divided by something.
        scale = (largest / self.most).clamp_min(_TINY)
        return self.rounded((wide / scale).clamp_(-self.most, self.most)), scale

    def rounded(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers within `most` on both sides, in one byte each."""
        raise NotImplementedError

    def decode(self, parts: Parts, dtype: torch.dtype) -> torch.Tensor:
        if len(parts) == 1:
            return parts[0]
        numbers, scale = parts
        return numbers.to(scale.dtype).mul_(scale).to(dtype)


def _shared(axes: int) -> tuple[int, ...]:
    """The axes along which a scale is the same."""
    return tuple(range(1, axes - 1)) if axes > 2 else (0,)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
