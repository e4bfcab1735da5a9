"""Dual Block Cache: skip the middle of each block stack while its first blocks' residual lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from autocache.errors import ParameterError
from autocache.how import Extrapolate, Reuse
from autocache.probe import FirstBlocks
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Mask, Residual, When
from autocache.when.residual import Reference
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound, BoundStack
    from autocache.where import BlockRanges


class DBCache(Strategy):
    """Skip the middle of each block stack while what its first blocks add has hardly changed.

    The first `fn` blocks of a stack always run and tell how far the step is from the last computed
    one; the last `bn` always run and correct what was filled in. Every stack decides for itself,
    and one with no block in between is left alone.

    Formula: r = what the first fn blocks add to the latent stream; d = mean|r - r'| / mean|r'|, r'
    of the last computed step; d < threshold: the middle's residual R is added, or with an order its
    Taylor forecast sum F[j] x^j / j! (see taylorseer); else the middle is computed, r' = r.

    Memory: for each stack, s for r' and order + 1 times s for each stream, for each guidance
    branch.

    Choose it: where fbcache is too coarse: more first and last blocks, limits and a forecast trade
    speed for accuracy. In few steps the default warm-up leaves little or nothing to skip: give
    warmup_steps, or a mask, which with mask_policy="static" is a fixed schedule.

    Source: cache-dit's DBCache. Upstream never resets the sum that accumulated_limit bounds
    (accumulated_resets=False does so too), forecasts only from four computed steps on, lets a
    static mask overrule the other limits and, before 1.5.3, miscounts skips in a row. LightX2V's
    DualBlock is fn=5, bn=5, threshold=0.03, warmup_steps=0, reference="previous_step",
    downsample=2.
    """

    name: ClassVar[str] = "dbcache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "fn": Range(0.0, 0.2, of="blocks", least=1, usual=0.1),
        "bn": Range(0.0, 0.1, of="blocks"),
        "threshold": Range(0.01, 1.0, log=True),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.2),
        "order": Range(0, 2, whole=True),
    }

    fn: int | None = Field(
        None,
        ge=1,
        description="first blocks of a stack that always run; by default 8, at most half of them",
    )
    bn: int = Field(0, ge=0, description="last blocks of a stack that always run")
    threshold: float = Field(
        0.08,
        ge=0,
        description="relative change of the residual below which a step skips; 0 never skips, and "
        "from 1 on every step that may skip does",
    )
    reference: Reference = Field(
        "last_computed", description="the step whose residual the present one is compared with"
    )
    downsample: int = Field(1, ge=1, description="compare every so many channels of the residual")
    warmup_interval: int = Field(
        1, ge=1, description="of the warm-up steps (8 by default) every so many are computed"
    )
    accumulated_limit: float | None = Field(
        None,
        gt=0,
        description="sum of relative changes since the last computed step after which to compute",
    )
    accumulated_resets: bool = Field(
        True, description="a computed step starts that sum again; false is as upstream"
    )
    mask: str | None = Field(
        None,
        description="steps that must be computed: slow, medium, fast or ultra at any step count, "
        "or a 1 (computed) or 0 for each step, as a text or a list; it stands in for the warm-up",
    )
    mask_policy: Literal["dynamic", "static"] = Field(
        "dynamic",
        description="whether the mask's other steps skip by the threshold, or all of them",
    )
    joined: bool = Field(
        False,
        description="one decision for all stacks, by the first one's first blocks: fn counts from "
        "the model's first block, bn from its last",
    )
    order: int = Field(
        0, ge=0, description="order of the middle residual's forecast; 0 adds the last one again"
    )

    @field_validator("mask", mode="before")
    @classmethod
    def _as_text(cls, mask: Any) -> Any:
        if isinstance(mask, (list, tuple)):
            mask = "".join(str(int(step)) for step in mask)
        if isinstance(mask, str):
            Mask(mask)
        return mask

    @model_validator(mode="after")
    def _static_means_a_mask(self) -> DBCache:
        if self.mask_policy == "static" and self.mask is None:
            raise ValueError("mask_policy='static' needs a mask")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        ranges = self._ranges(bound)
        if not ranges:
            sizes = ", ".join(f"{stack.path} {len(stack.blocks)}" for stack in bound.stacks)
            raise ParameterError(
                f"fn={self.fn} and bn={self.bn} leave no block of {bound.spec.name} to skip; "
                f"expected less than its stacks have ({sizes})"
            )
        return tuple(self._of(stack, blocks) for stack, blocks in ranges)

    def _ranges(self, bound: Bound) -> list[tuple[BoundStack, BlockRanges]]:
        """The blocks in between, with the stack whose first blocks decide for them."""
        if self.joined:
            first, end = bound.stack(), bound.block_count - self.bn
            return [(first, (self._first(first), end))] if self._first(first) < end else []
        bound.stack()
        ends = [(stack, self._first(stack), len(stack.blocks) - self.bn) for stack in bound.stacks]
        return [(stack, {stack.path: (first, end)}) for stack, first, end in ends if first < end]

    def _first(self, stack: BoundStack) -> int:
        return self.fn or max(1, min(8, len(stack.blocks) // 2))

    def _of(self, stack: BoundStack, blocks: BlockRanges) -> Recipe:
        when: When = Residual(
            FirstBlocks(self._first(stack), stack.path),
            self.threshold,
            self.reference,
            self.downsample,
            self.accumulated_limit,
            self.accumulated_resets,
            certain=1.0,
        )
        limits = Limits(warmup=8, warmup_interval=self.warmup_interval)
        if self.mask is not None:
            mask = Mask(self.mask, history=self.order + 1)
            when = mask if self.mask_policy == "static" else when
            limits = Limits(mask=mask.computes)
        how = Extrapolate(self.order) if self.order else Reuse()
        return Recipe(when=when, where=Blocks(blocks), how=how, limits=limits)
