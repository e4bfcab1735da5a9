"""AttentionCache: reuse attention outputs on a fixed schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy, preset
from autocache.when import Interval
from autocache.where import Submodules

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

Kind = Literal["self", "joint", "cross", "temporal"]


class Attention(Strategy):
    """Reuse every attention output in `step_interval - 1` of `step_interval` steps.

    Steps count from 0. Without parameters the published preset of the checkpoint is used, its steps
    rescaled to the generation's; without a preset every second step reuses, from a fifth of the
    steps on, and the last few steps are computed.

    Source: MindIE-SD AttentionCache. Memory: one attention output per block and guidance branch,
    two where the attention has two streams.
    """

    name: ClassVar[str] = "attention"

    step_start: int | None = Field(
        None, ge=0, description="first step whose outputs are kept; it is computed itself"
    )
    step_interval: int | None = Field(
        None, ge=1, description="steps from one computed step to the next; 1 never reuses"
    )
    step_end: int | None = Field(
        None, ge=0, description="last step that may reuse; nothing is kept from it on"
    )
    kinds: tuple[Kind, ...] = Field(
        ("self", "joint"), min_length=1, description="kinds of attention to reuse"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Attention:
        if None not in (self.step_start, self.step_end) and self.step_end < self.step_start:  # type: ignore[operator]
            raise ValueError(f"step_end={self.step_end} is before step_start={self.step_start}")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = dict(published.parameters) if published else {}
        steps = published.steps if published else None
        when = Interval(
            interval=self.step_interval or known.get("step_interval", 2),
            start=self.step_start,
            end=self.step_end,
            start_share=known["step_start"] / steps if steps and "step_start" in known else 0.2,
            end_share=known["step_end"] / steps if steps and "step_end" in known else 0.94,
        )
        return Recipe(when=when, where=Submodules(attention=self.kinds), how=Reuse())
