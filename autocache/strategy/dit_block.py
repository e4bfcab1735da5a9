"""DiTCache: skip a range of blocks on a fixed schedule and add the range's last residual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from autocache.how import Reuse
from autocache.strategy.published import preset
from autocache.strategy.recipe import Recipe
from autocache.strategy.scheduled import Scheduled
from autocache.strategy.tunable import Pair, Range, Tunable
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class DitBlock(Scheduled):
    """Skip a range of blocks in all but one of `step_interval` steps; add its last residual.

    Steps and blocks count from 0. Without parameters the published preset of the checkpoint is
    used, its steps rescaled to the generation's; without a preset every second step skips, from a
    fifth of the steps on, the blocks but the outer tenth at both ends of each stack.

    Formula: at step_start + n step_interval compute and keep R = y - x, y the output of the range
    and x its input; at the steps between, y = x + R.

    Memory: s for each stream and block stack, for each guidance branch.

    Choose it: when memory is tight, when the decision must not wait for the device, or when a
    range found by search is known for the model. An adaptive strategy spends its steps better.

    Source: MindIE-SD DiTCache, same family as Delta-DiT, arXiv 2406.01125. Upstream ignores
    step_end and corrupts a range of one block: `mindie_compat` does so too.
    """

    name: ClassVar[str] = "dit_block"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "step_start": Range(0.0, 0.4, of="steps", usual=0.2),
        "step_interval": Range(2, 6, whole=True, usual=2, about="speedup"),
        "blocks": Pair(
            Range(0.0, 0.9, of="blocks", usual=0.1), Range(0.1, 1.0, of="blocks", usual=0.9)
        ),
    }

    block_start: int | None = Field(
        None, ge=0, description="first block skipped, counted over all stacks"
    )
    block_end: int | None = Field(
        None, ge=1, description="block after the last one skipped, counted over all stacks"
    )
    mindie_compat: bool = Field(
        False,
        description="as upstream: ignore a step_end other than step_start, and add the raw input "
        "of a one-block range",
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> DitBlock:
        if self.blocks is not None and (self.block_start, self.block_end) != (None, None):
            raise ValueError("give either blocks, or block_start and block_end")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        published = preset(bound, self.name, config)
        known = dict(published.parameters) if published else {}
        ranges = {path: tuple(ends) for path, ends in known.get("blocks", {}).items()}
        blocks = self.blocks or ranges or None
        if self.block_start is not None or self.block_end is not None:
            blocks = (self.block_start or 0, self.block_end or bound.block_count)
        when = self.interval(published, end_share=1.0)
        if self.mindie_compat and (when.end is None or when.end != when.start):
            when = replace(when, end=None, end_share=1.0)
        where = Blocks(blocks, margin=0.1, raw_input_for_one=self.mindie_compat)
        return Recipe(when=when, where=where, how=Reuse())
