"""DiTCache: skip a range of blocks on a fixed schedule and add the range's last residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy, preset
from autocache.when import Interval
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class DitBlock(Strategy):
    """Skip a range of blocks in all but one of `step_interval` steps; add its last residual.

    Steps and blocks count from 0. Without parameters the published preset of the checkpoint is
    used, its steps rescaled to the generation's; without a preset every second step skips, from a
    fifth of the steps on, the blocks but the outer tenth at both ends of each stack.

    Source: MindIE-SD DiTCache; same family as Delta-DiT, arXiv 2406.01125. Memory: one activation
    per stream and block stack, for each guidance branch.
    """

    name: ClassVar[str] = "dit_block"

    step_start: int | None = Field(
        None, ge=0, description="first step whose residual is kept; it is computed itself"
    )
    step_interval: int | None = Field(
        None, ge=1, description="steps from one computed step to the next; 1 never skips"
    )
    step_end: int | None = Field(
        None, ge=0, description="last step that may skip; default: the last of the generation"
    )
    block_start: int | None = Field(
        None, ge=0, description="first block skipped, counted over all stacks"
    )
    block_end: int | None = Field(
        None, ge=1, description="block after the last one skipped, counted over all stacks"
    )
    ranges: dict[str, tuple[int, int]] | None = Field(
        None, description="block stack path to its own half-open range, instead of the two above"
    )
    mindie_compat: bool = Field(
        False,
        description="as upstream: ignore step_end, and add the raw input of a one-block range",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DitBlock:
        if self.ranges is not None and (self.block_start, self.block_end) != (None, None):
            raise ValueError("give either ranges, or block_start and block_end")
        if None not in (self.step_start, self.step_end) and self.step_end < self.step_start:  # type: ignore[operator]
            raise ValueError(f"step_end={self.step_end} is before step_start={self.step_start}")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = dict(published.parameters) if published else {}
        ranges = self.ranges
        if ranges is None and self.block_start is None and self.block_end is None:
            ranges = {path: (a, b) for path, (a, b) in known.get("ranges", {}).items()} or None
        steps = published.steps if published else None
        interval = Interval(
            interval=self.step_interval or known.get("step_interval", 2),
            start=self.step_start,
            end=None if self.mindie_compat else self.step_end,
            start_share=known["step_start"] / steps if steps and "step_start" in known else 0.2,
            end_share=known["step_end"] / steps if steps and "step_end" in known else 1.0,
        )
        where = Blocks(
            self.block_start,
            self.block_end,
            ranges,
            margin=0.1,
            raw_input_for_one=self.mindie_compat,
        )
        return Recipe(when=interval, where=where, how=Reuse())
