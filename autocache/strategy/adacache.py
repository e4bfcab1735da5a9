"""AdaCache: skip the whole block stack for as many steps as the last change calls for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autocache.errors import DoesNotApplyError
from autocache.how import Reuse
from autocache.probe import AttentionResidual
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Codebook, Motion
from autocache.when.codebook import PUBLISHED, Book
from autocache.when.motion import frames_of
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

Threshold = Annotated[float, Field(gt=0)]
Rate = Annotated[int, Field(ge=1)]
Stride = Annotated[int, Field(ge=1)]


class AdaCache(Strategy):
    """Skip all blocks for a number of steps that the change of one attention residual chooses.

    The change is measured in computed steps only, between what attention adds to the latent stream
    in one block now and in the computed step before. The first, the second and the two last steps
    are computed.

    Formula: c = mean|a - a_prev| / mean|a_prev| / steps between; the first entry of the codebook
    with c < threshold tells how many steps later the next one is computed. A skipped step is x + R,
    with R what the blocks added in the last computed one.

    Memory: s per stream and block stack (FLUX's two count as one) and s for the attention residual,
    in each guidance branch: 2 s for one stream in one stack.

    Choose it: for videos whose content moves unevenly, with `moreg`, or where teacache has no
    coefficients. Not with few steps: a rate reaches several steps ahead and cannot be taken back.

    Source: AdaCache, arXiv 2411.02397. Upstream keeps two residuals per block and adds them in
    turn, which sums up to the same R. Upstream measures block 13; LightX2V the middle one, as here,
    and does without the two last steps (`last_steps=0`).
    """

    name: ClassVar[str] = "adacache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "codebook": OneOf(("slow", "fast", "100")),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.05),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=8),
    }

    codebook: Literal["100", "fast", "slow"] | tuple[tuple[Threshold, Rate], ...] = Field(
        "fast",
        description="published codebook, '100' being for 100 steps and the others for 30, or "
        "(threshold, rate) in rising order: below that change the next computed step is so many "
        "steps later, above all of them it is the next one",
    )
    probe_block: int | None = Field(
        None, ge=0, description="number of the block that is measured, by default the middle one"
    )
    probe_stack: str | None = Field(None, description="path of the block stack that is measured")
    moreg: bool = Field(False, description="compute more often what moves more (videos only)")
    moreg_strides: tuple[Stride, ...] = Field(
        (1,), min_length=1, description="distances of the frames compared, in latent frames"
    )
    moreg_steps: tuple[int, int] | None = Field(
        None, description="first and last step at which motion counts, by default the codebook's"
    )
    frames: int | None = Field(
        None, ge=1, description="frames that the tokens are divided into, where not known"
    )

    @model_validator(mode="after")
    def _in_order(self) -> AdaCache:
        if not isinstance(self.codebook, str):
            thresholds = [threshold for threshold, _ in self.codebook]
            if not thresholds or sorted(set(thresholds)) != thresholds:
                raise ValueError("codebook needs entries whose thresholds rise")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        named = PUBLISHED[self.codebook] if isinstance(self.codebook, str) else Book(self.codebook)
        when = Codebook(
            measured=AttentionResidual(self.probe_block, self.probe_stack),
            entries=named.entries,
            motion=self._motion(named, bound, config) if self.moreg else None,
        )
        return Recipe(when=when, where=Blocks(), how=Reuse(), limits=Limits(warmup=1, last=2))

    def _motion(self, book: Book, bound: Bound, config: Mapping[str, Any]) -> Motion:
        axis, patch = frames_of(bound.spec, config)
        if axis is None and self.frames is None and bound.spec.frames is None:
            raise DoesNotApplyError(
                f"moreg compares frames, and the latents of {bound.spec.name} are not known to "
                "have any; give frames=, the number of frames its tokens are divided into"
            )
        steps, of = (self.moreg_steps, None) if self.moreg_steps else (book.moves, book.steps)
        return Motion(self.frames, axis, patch, self.moreg_strides, steps, of)
