"""Floating-point tensors as 8-bit integers."""

from __future__ import annotations

import torch

from autocache.runtime.encodings.scaled import Scaled


class Int8(Scaled):
    """255 equal steps: off by at most `max|x| / 254` of the channel, with `Scaled`'s scales."""

    name = "int8"
    dtype = torch.int8
    most = 127.0

    def rounded(self, numbers: torch.Tensor) -> torch.Tensor:
        # What is not finite comes back by its channel's scale, which then is not finite either.
        return numbers.round_().nan_to_num_(0.0).to(self.dtype)
