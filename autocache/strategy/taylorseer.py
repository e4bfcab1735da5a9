"""TaylorSeer: continue features from their last computed values on a fixed schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from autocache.how import Extrapolate
from autocache.how.extrapolate import Basis
from autocache.runtime.limits import Limits
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Interval
from autocache.where import EVERY_KIND, Blocks, Denoiser, Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

PLACES = {
    "submodules": Submodules(attention=EVERY_KIND, feed_forward=True),
    "stack": Blocks(),
    "output": Denoiser(),
}


class TaylorSeer(Strategy):
    """Compute every `interval`-th step and forecast the steps between from the last computed ones.

    The first steps, `warmup_steps` or the published 3, are all computed, and differences are formed
    from the last two of them on. Without parameters the published values of the checkpoint are
    used, and interval 5 at order 1 where none are.

    Formula: F[0] = f, F[j+1] = (F[j] - F'[j]) / g, F' the differences at the computed step g steps
    before; x steps later f = sum of F[j] x^j / j! over j <= order, as far as computed steps reach.

    Memory: (order + 1) s for each attention and each feed-forward, for each guidance branch, where
    a block with one stream (FLUX) has 4 s for its feed-forward; for each stream and block stack
    (FLUX's two count as one) with scope="stack"; of the denoiser's output with scope="output".

    Choose it: for many steps on a smooth trajectory, where the schedule should not wait for the
    device; scope="output" keeps least and skips most. Few steps leave nothing to forecast from.

    Source: TaylorSeer, arXiv 2503.06923. `phase="diffusers"` computes the steps that diffusers
    does, its lite mode being scope="output"; basis="newton" is exact for polynomials in the
    timestep, which the published differences are not above order 1.
    """

    name: ClassVar[str] = "taylorseer"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "interval": Range(2, 8, whole=True, usual=5, about="speedup"),
        "order": Range(0, 3, whole=True, usual=1),
        "scope": OneOf(("submodules", "stack", "output")),
        "basis": OneOf(("taylor", "newton")),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.1),
    }

    interval: int | None = Field(
        None, ge=1, description="steps from one computed step to the next; 1 never predicts"
    )
    order: int | None = Field(
        None, ge=0, le=4, description="highest difference used; 0 reuses the last computed value"
    )
    scope: Literal["submodules", "stack", "output"] = Field(
        "submodules",
        description="what is forecast: attention and feed-forward outputs before their gates, what "
        "each block stack adds, or the denoiser's output",
    )
    basis: Basis = Field("taylor", description="the polynomial; 'taylor' is as published")
    phase: Literal["published", "diffusers"] = Field(
        "published",
        description="whether the last warm-up step, or the second after it, begins the pattern",
    )

    @property
    def needs_spec(self) -> bool:  # type: ignore[override]
        """The denoiser's output is there without knowing its blocks."""
        return self.scope != "output"

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = {"interval": 5, "order": 1, "warmup_steps": 3}
        known |= dict(published.parameters) if published else {}
        known |= self.model_dump(include=set(known), exclude_none=True)
        warmup, later = known["warmup_steps"], self.phase == "diffusers"
        when = Interval(
            known["interval"],
            start=max(warmup - 1, 0),
            phase=2 if later else 0,
            history=max(warmup, 1) if later else 2,
        )
        how = Extrapolate(known["order"], self.basis)
        return Recipe(when, PLACES[self.scope], how, Limits(warmup=warmup))
