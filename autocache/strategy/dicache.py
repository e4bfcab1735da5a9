"""DiCache: the first blocks tell when to skip the others, and how far their residual has moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.errors import ParameterError
from autocache.how import Aligned
from autocache.probe import FirstBlocks
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Trajectory
from autocache.when.trajectory import Error
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

PUBLISHED = {"delta_y": (0.4, 0.2), "delta_minus": (0.08, 0.0)}
"""Per error, the threshold and the share of the first steps that are computed."""


class DiCache(Strategy):
    """Skip all blocks but the first few while those have moved little since the last computed step.

    The first blocks run in every step as a probe. How far they have moved along their own last
    change tells how far to continue the last change of each stack's residual.

    Formula: y = the first blocks' output; sum += mean|y - y'| / mean|y'|, y' of the step before;
    sum < threshold: a stack's output is x + R2 + g (R1 - R2), R1 and R2 the residuals of the last
    two computed steps, g = mean|P - P2| / mean|P1 - P2| within 1 and 1.5 and P = y - x; else
    compute, sum = 0.

    Memory: 3 s for the probe (4 s with error="delta_minus") and, for each stack (FLUX's two count
    as one), 2 s for each of its streams, for each guidance branch.

    Choose it: in place of fbcache where several steps are skipped in a row. It keeps about twice as
    much, and its residual is that of the whole stack, so the first blocks' own work is filled in.

    Source: DiCache, arXiv 2508.17356. Upstream computes one more of the first steps than its share
    of them, and fills in the latent stream only.
    """

    name: ClassVar[str] = "dicache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.02, 2.0, log=True, usual=0.4),
        "depth": Range(0.0, 0.15, of="blocks", least=1),
        "error": OneOf(("delta_y", "delta_minus")),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.2),
    }

    threshold: float | None = Field(
        None,
        ge=0,
        description="accumulated change at which a step is computed, by default 0.4, and 0.08 with "
        "delta_minus; 0 never skips",
    )
    depth: int = Field(1, ge=1, description="first blocks that always run; 1 to 5 are recommended")
    error: Error = Field(
        "delta_y",
        description="what counts as change: that of the first blocks' output, or how much it "
        "differs from that of their input",
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        threshold, share = PUBLISHED[self.error]
        first = bound.stack()
        if self.depth >= bound.block_count:
            raise ParameterError(
                f"depth={self.depth} leaves none of the {bound.block_count} blocks of "
                f"{bound.spec.name} to skip"
            )
        when = Trajectory(
            FirstBlocks(self.depth, first.path, states=True),
            threshold if self.threshold is None else self.threshold,
            self.error,
        )
        where = Blocks((self.depth, bound.block_count), from_input=True)
        limits = Limits(warmup=max(1, round(share * 30)), warmup_share=share, last=1)
        return Recipe(when=when, where=where, how=Aligned(), limits=limits)
