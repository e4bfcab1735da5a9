"""The latent as a denoiser at its noise level sees it: filtered towards what is signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import DoesNotApplyError
from autocache.runtime.intercept import PASS

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Call
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound

GRIDS = {"BCHW": (2, 3), "BCFHW": (2, 3, 4), "BFCHW": (1, 3, 4), "BFHWC": (1, 2, 3)}
"""The axes of time and space of each latent layout that is a grid."""


@dataclass(frozen=True)
class SpectralLatent:
    """The denoiser's input latent after a Wiener filter for its noise level.

    Along each axis of time and space a frequency `f` is weighed by `a P / (a^2 P + sigma^2)` with
    `a = 1 - sigma` and `P = 1 / |f|^power`; the product of the axes' weights has mean 1. Shape: the
    latent's. For rectified-flow models, whose latent at noise level sigma is
    `(1 - sigma) x + sigma noise`.

    Source: SeaCache, arXiv 2602.18993, eq. 7; diffusers' SeaCache.
    """

    power: float = 3.0

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        layout = bound.spec.latent_layout
        if layout not in GRIDS:
            raise DoesNotApplyError(
                f"the latents of {bound.spec.name} are no grid of pixels or frames (latent_layout "
                f"is {layout!r}), so they have no spatial frequencies; teacache and fbcache "
                "measure what every model with blocks has"
            )
        return [(bound.stack().blocks[0], _Filtered(part, GRIDS[layout], self.power))]


class _Filtered:
    """Measures when the first block is called."""

    def __init__(self, part: Part, axes: tuple[int, ...], power: float) -> None:
        self.part = part
        self.session = part.session
        self.axes = axes
        self.power = power

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is not None and moment.call.latent is not None:
            moment.probe = spectral(moment.call.latent, _sigma(moment.call), self.axes, self.power)
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


def _sigma(call: Call) -> float:
    """The announced noise level, else that of a rectified flow at the timestep."""
    return float(call.sigma) if call.sigma is not None else call.time_of(call.step) / 1000


def spectral(
    latent: torch.Tensor, sigma: float, axes: tuple[int, ...], power: float
) -> torch.Tensor:
    """The filtered latent, in its own shape and dtype. The transform is float32."""
    sigma = min(max(sigma, 1e-6), 1 - 1e-6)
    gain = torch.ones((), device=latent.device)
    for axis in axes:
        frequency = torch.fft.fftfreq(latent.shape[axis], device=latent.device).abs()
        clean = 1 / (frequency**power + 1e-16)
        weight = (1 - sigma) * clean / ((1 - sigma) ** 2 * clean + sigma**2 + 1e-16)
        shape = [1] * latent.ndim
        shape[axis] = -1
        gain = gain * weight.reshape(shape)
    mean = float(gain.mean())
    if math.isfinite(mean) and mean > 0:
        gain = gain / mean
    spectrum = torch.fft.fftn(latent.float(), dim=axes)
    return torch.fft.ifftn(spectrum * gain, dim=axes).real.to(latent.dtype)
