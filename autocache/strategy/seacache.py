"""SeaCache: skip the blocks while the denoised content of the latent has hardly changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Extrapolate
from autocache.probe import SpectralLatent
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Accumulated
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class SeaCache(Strategy):
    """Skip all blocks while the spectrally filtered latent has hardly changed.

    The latent is filtered for its noise level, so that what counts is a change of its content and
    not of its noise; no calibration is needed. The skipped residual is extrapolated, the first and
    the last step are computed, and at most two steps in a row are skipped.

    Formula: r = mean|z - z'| / mean|z'| for each picture, z the filtered latent and z' that of the
    step before; sum += mean r; skip while sum < threshold, else compute and set sum to 0; skipped,
    y = x + R extrapolated by order differences.

    Memory: (order + 1) s for each stream and block stack (FLUX's two count as one) and one latent,
    for each guidance branch.

    Choose it: for rectified-flow video and image models whose latents are a grid, when there are no
    published coefficients. It costs one FFT of the latent and one host sync per step.

    Source: SeaCache, arXiv 2602.18993, in the form of diffusers 0.42.1. There the text stream is
    reused and never extrapolated; here both streams are treated alike.
    """

    name: ClassVar[str] = "seacache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.01, 2.0, log=True),
        "order": Range(0, 2, whole=True),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=2),
    }

    threshold: float = Field(
        0.25, ge=0, description="summed relative change at which a step is computed; 0 never skips"
    )
    order: int = Field(1, ge=0, le=4, description="order of the extrapolation; 0 reuses")
    power: float = Field(3.0, gt=0, description="exponent of the power spectrum of clean latents")

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        when = Accumulated(SpectralLatent(self.power), self.threshold, per_sample=True)
        limits = Limits(warmup=1, last=1, max_consecutive_skips=2)
        return Recipe(when, Blocks(), Extrapolate(self.order), limits)
