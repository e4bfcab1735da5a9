"""FORA: reuse the outputs of attention and feed-forward on a fixed schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Interval
from autocache.where import EVERY_KIND, Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class Fora(Strategy):
    """Compute attention and feed-forward in every `interval`-th step, and reuse them in between.

    Outputs are kept before their gates, so that gates and modulation are those of the present step.
    The first step is computed and kept already; `warmup_steps` holds reuse back.

    Formula: at steps i with i mod interval = 0 compute and keep A = attention and M = feed-forward;
    at the others, x += gate(now) A, then x += gate(now) M.

    Memory: 2 B s for each guidance branch, 3 B s where blocks have cross attention, once more for
    each further stream.

    Choose it: for many small steps (100 and more), which change little from one to the next, as a
    plain baseline without thresholds. At few steps forecasting or an adaptive method is closer.

    Source: FORA, arXiv 2407.01425. Upstream counts steps down from the last, so that its first gap
    may be shorter: `countdown` does so too.
    """

    name: ClassVar[str] = "fora"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "interval": Range(2, 8, whole=True, about="speedup"),
        "countdown": OneOf((False, True)),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.0),
    }

    interval: int = Field(
        3, ge=1, description="steps from one computed step to the next; 1 never reuses"
    )
    countdown: bool = Field(
        False,
        description="as upstream: the pattern ends with a computed last step, where the total is "
        "known, and does not begin at the first",
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        when = Interval(self.interval, start=0, from_end=self.countdown)
        where = Submodules(attention=EVERY_KIND, feed_forward=True)
        return Recipe(when, where, how=Reuse())
