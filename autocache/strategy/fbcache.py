"""First Block Cache: skip all blocks but the first while its residual has hardly changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Reuse
from autocache.probe import FirstBlocks
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Residual
from autocache.when.residual import Reference
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class FBCache(Strategy):
    """Skip every block but the very first while the first block's residual has hardly changed.

    The first block runs in every step, and what it adds to the latent stream tells how far the step
    is from the last computed one. One decision goes for the blocks of all stacks.

    Formula: r = y0 - x0 of the first block; d = mean|r - r'| / mean|r'|, r' the r of the last
    computed step; d < threshold: each stack's remaining blocks are left out and R = y - x of the
    last computed step is added; else they are computed, R is kept and r' = r.

    Memory: s for r' and, for each block stack (FLUX's two count as one), s for each of its streams,
    for each guidance branch.

    Choose it: on any model with block stacks, without calibration; a higher threshold skips more.
    Where the first block is a poor witness, as in some models of few steps, prefer dbcache.

    Source: ParaAttention and diffusers' FirstBlockCache. diffusers also skips where d equals the
    threshold, whose default is .05 there. LightX2V's FirstBlock is threshold=0.02,
    reference="previous_step", downsample=2.
    """

    name: ClassVar[str] = "fbcache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.01, 1.0, log=True),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.0),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=8),
    }

    threshold: float = Field(
        0.08,
        ge=0,
        description="relative change of the residual below which a step skips; 0 never skips",
    )
    reference: Reference = Field(
        "last_computed", description="the step whose residual the present one is compared with"
    )
    downsample: int = Field(1, ge=1, description="compare every so many channels of the residual")

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        first = bound.stack()
        starts = {s.path: int(s is first) for s in bound.stacks}
        ranges = {s.path: (starts[s.path], len(s.blocks)) for s in bound.stacks}
        probe = FirstBlocks(1, first.path)
        return Recipe(
            when=Residual(probe, self.threshold, self.reference, self.downsample),
            where=Blocks({path: r for path, r in ranges.items() if r[0] < r[1]}),
            how=Reuse(),
        )
