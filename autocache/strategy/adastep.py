"""AdaStep: skip the denoiser while the latent moves at an even pace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Reuse
from autocache.runtime.limits import Limits
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import LatentCurvature
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class AdaStep(Strategy):
    """Skip the whole denoiser while the latent's speed changes evenly from step to step.

    It looks at what the scheduler made of the latent and at nothing inside the model. A skipped
    step takes the last output of its guidance branch, and the scheduler steps on with it.

    Formula: d_n = mean|x_n - x_(n-1)| with x_(-1) = 0, x the latent after step n; from the third
    d on: limit *= decay; |(d_n + d_(n-2)) / 2 - d_(n-1)| <= limit d_(n-1): the next step reuses
    each branch's output y, unless max_consecutive_skips were just skipped.

    Memory: one output for each guidance branch and one latent; both have the size of the picture,
    far below s.

    Choose it: for any denoiser at 30 steps or more. Multistep schedulers (DPM++, UniPC) take a
    reused output into their history as if it were new, so prefer a lower threshold there.

    Source: AdaStep of MindIE's CogVideoX, related to AdaptiveDiffusion, arXiv 2410.09873. Upstream
    skips the last step too (last_steps=0), keeps one output for all calls of a step, and lets the
    decayed limit leak into the next generation, which no option restores: one generation never
    depends on another here.
    """

    name: ClassVar[str] = "adastep"
    needs_spec: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.001, 1.0, log=True, usual=0.015),
        "decay": Range(0.9, 1.0),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=4),
    }

    threshold: float | None = Field(
        None,
        ge=0,
        description="bend of the latent's speed, relative to that speed, up to which the next step "
        "is skipped; 0 never skips; without a preset 0.015",
    )
    decay: float = Field(0.99, gt=0, le=1, description="factor on the threshold at every test")

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = {"threshold": 0.015, "max_consecutive_skips": 4}
        known |= published.parameters if published else {}
        threshold = known["threshold"] if self.threshold is None else self.threshold
        limits = Limits(last=1, max_consecutive_skips=known["max_consecutive_skips"], shared=True)
        return Recipe(LatentCurvature(threshold, self.decay), Denoiser(), Reuse(), limits)
