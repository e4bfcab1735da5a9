"""Floating-point tensors as 8-bit floating-point numbers."""

from __future__ import annotations

import torch

from autocache.runtime.encodings.scaled import Scaled


class FP8(Scaled):
    """4 significant bits (e4m3): off by at most 2^-4 of each number, or by `max|x| / 448 / 1024` of
    the channel where that is more, with `Scaled`'s scales."""

    name = "fp8"
    dtype = torch.float8_e4m3fn
    most = 448.0

    def rounded(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.to(self.dtype)
