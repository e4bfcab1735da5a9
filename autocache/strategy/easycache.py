"""EasyCache: skip the denoiser while its output is expected to change little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Reuse
from autocache.runtime.limits import Limits
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Gain
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class EasyCache(Strategy):
    """Skip the whole denoiser while the change expected of its output adds up to little.

    How much the output follows the input is measured on the last two computed steps, so there is
    nothing to calibrate and no model spec to write. The first branch of a step decides for all.

    Formula: k = mean|y1 - y0| / mean|x1 - x0| of the last two computed steps, x the latent and y
    the output; sum += k mean|x - x'| / mean|y1|, x' the latent of the step before; sum < threshold:
    y = x + (y1 - x1), else compute and set sum to 0.

    Memory: one output for each guidance branch; for the one that decides two latents and one output
    more. A latent and an output have the size of the picture, far below s.

    Choose it: for any denoiser, also one without a spec, at about 20 steps or more. It costs two
    host syncs per step; where a published table fits the checkpoint, teacache is more selective.

    Source: EasyCache, arXiv 2507.02860. Published for 50 steps: threshold .05 and 10 exact steps
    (Wan), .025 and 5 (HunyuanVideo). Upstream never rescales the exact steps to the step count;
    warmup_steps fixes them.
    """

    name: ClassVar[str] = "easycache"
    needs_spec: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.005, 2.0, log=True, usual=0.05),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.2),
    }

    threshold: float | None = Field(
        None,
        ge=0,
        description="summed relative change of the output at which a step is computed; 0 never "
        "skips; without a preset 0.05",
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = {"threshold": 0.05, "warmup_steps": 10} | (
            published.parameters if published else {}
        )
        warmup, steps = known["warmup_steps"], published.steps if published else None
        threshold = known["threshold"] if self.threshold is None else self.threshold
        limits = Limits(warmup, warmup_share=warmup / (steps or 50), last=1, shared=True)
        return Recipe(Gain(threshold), Denoiser(residual=True), Reuse(), limits)
