"""AttentionCache: reuse attention outputs on a fixed schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from autocache.how import Reuse
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe
from autocache.strategy.scheduled import Scheduled
from autocache.strategy.tunable import Range, Tunable
from autocache.where import Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

Kind = Literal["self", "joint", "cross", "temporal"]


class Attention(Scheduled):
    """Reuse every attention output in `step_interval - 1` of `step_interval` steps.

    Steps count from 0. Without parameters the published preset of the checkpoint is used, its steps
    rescaled to the generation's; without a preset every second step reuses, from a fifth of the
    steps on, and the last few steps are computed.

    Formula: at step_start + n step_interval up to step_end compute and keep each attention's
    output A; at the steps between, A stands in.

    Memory: B s for each guidance branch, twice that where the attention has two streams.

    Choose it: when attention dominates the time (long videos) and memory is plentiful; gates and
    modulation stay fresh, so it is gentler than skipping blocks. dit_block keeps far less.

    Source: MindIE-SD AttentionCache.
    """

    name: ClassVar[str] = "attention"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "step_start": Range(0.0, 0.4, of="steps", usual=0.2),
        "step_interval": Range(2, 6, whole=True, usual=2, about="speedup"),
        "step_end": Range(0.6, 1.0, of="steps", usual=0.94),
    }

    kinds: tuple[Kind, ...] = Field(
        ("self", "joint"), min_length=1, description="kinds of attention to reuse"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        when = self.interval(preset(bound, self.name, config), end_share=0.94)
        return Recipe(when=when, where=Submodules(attention=self.kinds), how=Reuse())
