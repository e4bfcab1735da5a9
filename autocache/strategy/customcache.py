"""CustomCache: TeaCache that continues the residual along its last change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Extrapolate
from autocache.strategy.recipe import Recipe
from autocache.strategy.teacache import TeaCache
from autocache.strategy.tunable import Range, Tunable

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class CustomCache(TeaCache):
    """Skip all blocks when TeaCache would, and forecast their residual instead of repeating it.

    Coefficients, probe, threshold and protected steps are TeaCache's. The forecast takes the change
    between the last two computed steps, however far apart they are; until there are two, the
    residual is repeated.

    Formula: decide as teacache; computed, D0 = y - x and D1 = (D0 - D0') / g, D0' the residual of
    the computed step g steps before; skipped k steps later, y = x + D0 + k D1.

    Memory: 2 s for each stream and block stack (FLUX's two count as one) and one copy of the probe,
    for each guidance branch.

    Choose it: instead of teacache at thresholds that skip several steps in a row. Where a single
    step is skipped now and then it gains little, and takes twice the memory.

    Source: LightX2V's Custom mode, no paper. Upstream ships threshold 0.26 for Wan; the default
    here is the gentlest published for the coefficients. Order 0 is teacache.
    """

    name: ClassVar[str] = "customcache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        **TeaCache.tunable,
        "order": Range(0, 2, whole=True),
    }

    order: int = Field(
        1, ge=0, le=4, description="order of the forecast; 0 repeats the last residual"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        return replace(super().recipe(bound, config), how=Extrapolate(self.order))
