"""FasterCache: predict the unconditional branch from the conditional one, and attention from two
steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.errors import ParameterError
from autocache.how import Blend, Frequency
from autocache.runtime.limits import Limits
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Pair, Range, Tunable
from autocache.when import Conditional, Interval
from autocache.where import GRIDS, Guidance, GuidanceStyle, Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

Window = tuple[float, float]
BETWEEN = "both excluded, on the scheduler's scale"


class FasterCache(Strategy):
    """Predict the unconditional branch of guidance from the conditional one, and attention too.

    In four of five steps only the conditional branch is run, and the unconditional one is that plus
    their last difference, whose low and high frequencies are weighed apart. In the steps so
    shortened, and in every step without guidance, every second attention output is extrapolated
    from the last two computed ones.

    Formula: u = c + d where only c is run, d <- low(d) w_low + high(d) w_high before (the weights
    compound), d = u - c where both are run; low is a disc of radius min(H, W) // 5 around frequency
    zero. A = A1 + w (A1 - A2), with A1 and A2 the last two attention outputs of c.

    Memory: 2 B s with s one conditional half, for both branches together, and one float32 latent
    (two complex ones upstream); beside it one latent where the branches are called one by one.

    Choose it: under classifier-free guidance, where half of the work is the unconditional branch,
    for video and image models whose latent is a grid. Where it is packed into tokens (FLUX, Qwen)
    or guidance is distilled, only attention is reused, which other strategies do better.

    Source: FasterCache, arXiv 2410.19355. Extrapolated attention does not feed later
    extrapolations, as in the official code: `feed_back` does as diffusers. Distilled models compute
    until something is kept, where diffusers fails.
    """

    name: ClassVar[str] = "fastercache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "guidance_interval": Range(2, 8, whole=True),
        "guidance_window": Pair(Range(-1.0, 300.0), Range(400.0, 1001.0)),
        "alpha_low": Range(0.9, 1.3),
        "alpha_high": Range(0.9, 1.3),
        "attention_interval": Range(2, 6, whole=True),
        "attention_window": Pair(Range(-1.0, 300.0), Range(400.0, 1001.0)),
        "attention_weight": Range(0.0, 1.0),
    }

    guidance_cache: bool | None = Field(
        None, description="predict the unconditional branch; None: where the latent is a grid"
    )
    guidance: GuidanceStyle | None = Field(
        None,
        description="how the denoiser is called under guidance: batched (unconditional half first) "
        "or batched_conditional_first, sequential, none; None: as its pipeline does",
    )
    guidance_interval: int = Field(
        5, ge=1, description="steps from one computed unconditional branch to the next; 1: all"
    )
    guidance_window: Window = Field(
        (-1, 641), description=f"timesteps between which it is predicted, {BETWEEN}"
    )
    alpha_low: float = Field(1.1, description="weight of the difference's low frequencies")
    alpha_high: float = Field(1.1, description="weight of the difference's high frequencies")
    low_window: Window = Field(
        (99, 901), description=f"timesteps between which alpha_low weighs, {BETWEEN}; else 1"
    )
    high_window: Window = Field(
        (-1, 301), description=f"timesteps between which alpha_high weighs, {BETWEEN}; else 1"
    )
    attention: bool = Field(True, description="reuse attention outputs")
    attention_interval: int = Field(
        2, ge=1, description="steps from one computed self or joint attention to the next; 1: all"
    )
    attention_window: Window = Field(
        (-1, 681), description=f"timesteps between which it is reused, {BETWEEN}"
    )
    temporal_interval: int = Field(
        1, ge=1, description="steps from one computed temporal attention to the next; 1: all"
    )
    temporal_window: Window = Field(
        (-1, 681), description=f"timesteps between which it is reused, {BETWEEN}"
    )
    attention_weight: float | Window = Field(
        0.5, description="weight of the last change, or the weights at the first and the last step"
    )
    feed_back: bool = Field(
        False, description="as diffusers: extrapolated outputs feed later extrapolations"
    )
    first_count: int = Field(
        0, ge=0, description="what the first step counts as: multiples of an interval are computed"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        published = preset(bound, self.name, config)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        own = self.create(**{**(published.parameters if published else {}), **given})
        assert isinstance(own, FasterCache)
        recipes = (*own._branches(bound), *own._attention(bound))
        if not recipes:
            raise ParameterError("fastercache: its options leave neither guidance nor attention")
        return recipes

    def _branches(self, bound: Bound) -> list[Recipe]:
        grid = bound.spec.latent_layout in GRIDS and self.guidance != "none"
        if not (grid if self.guidance_cache is None else self.guidance_cache):
            return []
        how = Frequency(self.alpha_low, self.alpha_high, self.low_window, self.high_window)
        limits = Limits(timesteps=self.guidance_window)
        return [Recipe(self._every(self.guidance_interval), Guidance(self.guidance), how, limits)]

    def _attention(self, bound: Bound) -> list[Recipe]:
        how = Blend(self.attention_weight, self.feed_back)
        kinds = [
            (("self", "joint"), self.attention_interval, self.attention_window),
            (("temporal",), self.temporal_interval, self.temporal_window),
        ]
        guided = bool(self._branches(bound))
        recipes = []
        for kind, interval, window in kinds if self.attention else ():
            if interval > 1:
                rule = self._every(interval, history=how.keep)
                when = Conditional(rule) if guided else rule
                recipes.append(Recipe(when, Submodules(kind), how, Limits(timesteps=window)))
        return recipes

    def _every(self, interval: int, history: int = 1) -> Interval:
        return Interval(interval, start=0, phase=-self.first_count, history=history)
