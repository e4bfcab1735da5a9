"""The last value, its low and its high frequencies weighed apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from autocache.how.base import How

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action

SHARE = 5
"""The low frequencies are a disc of radius `min(height, width) // 5` around frequency zero."""


@dataclass(frozen=True)
class Frequency(How):
    """`low(d) w_low + high(d) w_high`, with `low` and `high` the two parts of a value's spectrum.

    `w_low` is `alpha_low` at the timesteps between `low_window` (both excluded, on the
    scheduler's scale) and 1 elsewhere, and so for `high`. The value is the last one *filled in*, so
    that the weights compound over consecutive skips. The last two axes are height and width, and
    only they are transformed. The spectrum is taken in float32.

    Source: FasterCache, arXiv 2410.19355, where the two parts are kept as spectra. The transform is
    linear, so one real tensor does, at a quarter of the memory.
    """

    alpha_low: float = 1.1
    alpha_high: float = 1.1
    low_window: tuple[float, float] = (99, 901)
    high_window: tuple[float, float] = (-1, 301)
    action: ClassVar[Action] = "predicted"
    pushes = True
    spatial = True

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        value = values[-1].tensor
        low, high = self.weights(moment.call.time_of(moment.step))
        if low == high:
            return value * low
        height, width = value.shape[-2:]
        spectrum = torch.fft.rfft2(value.float())
        weights = torch.where(disc(height, width, value.device), low, high)
        # A real transform has only the first half of the last axis; the disc is symmetric.
        spectrum *= torch.fft.ifftshift(weights)[:, : spectrum.shape[-1]]
        return torch.fft.irfft2(spectrum, s=(height, width)).to(value.dtype)

    def weights(self, time: float) -> tuple[float, float]:
        """The weights of the low and of the high frequencies at a timestep."""
        low = self.low_window[0] < time < self.low_window[1]
        high = self.high_window[0] < time < self.high_window[1]
        return (self.alpha_low if low else 1.0), (self.alpha_high if high else 1.0)


def disc(height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Which frequencies are low, with frequency zero in the middle."""
    y = torch.arange(height, device=device)[:, None] - height // 2
    x = torch.arange(width, device=device)[None, :] - width // 2
    return x**2 + y**2 <= (min(height, width) // SHARE) ** 2
