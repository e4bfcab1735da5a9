"""TeaCache: skip the whole block stack while the timestep-modulated input has hardly changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autocache.errors import DoesNotApplyError, ParameterError, nearest
from autocache.how import Reuse
from autocache.probe import Named
from autocache.runtime.limits import Limits
from autocache.strategy import published
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Accumulated
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.spec.schema import Spec
    from autocache.spec.tables import TeaCacheTable

RELATIVE_THRESHOLD = 1.9
"""Mean changes per step that may add up where no threshold is known: just under two, so that a
steady trajectory computes every second step."""


class TeaCache(Strategy):
    """Skip all blocks while the rescaled change of the modulated input adds up to little.

    Without parameters the published coefficients and the gentlest published threshold of the
    checkpoint are used; a checkpoint without any is refused, unless coefficients are given. Where
    there is no threshold, it is relative to the mean change per step, and computes about every
    second one.

    Formula: r = mean|m - m'| / mean|m'|, m' the probe m of the step before; sum += p(r); skip while
    sum < threshold, else compute, keep R = y - x of each stack, sum = 0; skipped, y = x + R.

    Memory: s for each stream and block stack (FLUX's two count as one) and one copy of the probe,
    for each guidance branch.

    Choose it: where coefficients were published for the checkpoint. It needs one reduction and one
    host sync per step; without coefficients choose easycache or fbcache, which need none.

    Source: TeaCache, arXiv 2411.19108. Upstream also adds up negative values of the polynomial,
    which puts computing off without limit: poly_clip="none" does so too.
    """

    name: ClassVar[str] = "teacache"
    fitted: ClassVar[tuple[str, ...]] = ("coefficients",)
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.01, 2.0, log=True, usual=0.15),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.05),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=8),
    }

    threshold: float | None = Field(
        None,
        ge=0,
        description="accumulated rescaled change at which a step is computed; 0 never skips",
    )
    quality: Literal["slow", "medium", "fast"] | None = Field(
        None,
        description="level of the published thresholds instead: 'slow' is the gentlest, 'fast' the "
        "highest, 'medium' the middle one, or the lower of two",
    )
    table: str | None = Field(None, description="id of the spec's coefficient table to use")
    coefficients: tuple[float, ...] | None = Field(
        None, min_length=1, description="polynomial to use instead, highest order first"
    )
    probe: str | None = Field(None, description="name of the spec's probe to measure")
    use_ret_steps: bool = Field(
        False, description="the variant with more protected first steps and coefficients of its own"
    )
    poly_clip: Literal["zero", "abs", "none"] = Field(
        "zero", description="what a negative rescaled change counts as; 'none' is as published"
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> TeaCache:
        if self.quality is not None and self.threshold is not None:
            raise ValueError("give either a threshold or a quality")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        bound.stack()  # A model without blocks has no use for the coefficients asked for below.
        table = self._table(bound.spec, config)
        coefficients = self.coefficients or tuple(table.coefficients if table else ())
        if not coefficients:
            raise DoesNotApplyError(_no_table(self.name, bound.spec))
        threshold, relative = self._level(bound.spec, table), False
        if threshold is None:
            threshold, relative = RELATIVE_THRESHOLD, True
        when = Accumulated(
            measured=Named(self._probe(bound.spec, table)),
            threshold=threshold,
            coefficients=coefficients,
            clip=self.poly_clip,
            relative=relative,
            valid_for=_range(table) if self.coefficients is None else None,
        )
        limits = Limits(
            warmup=table.warmup_steps if table else 1,
            last=1 if table is None or table.force_last else 0,
        )
        return Recipe(when=when, where=Blocks(), how=Reuse(), limits=limits)

    def _level(self, spec: Spec, table: TeaCacheTable | None) -> float | None:
        """The threshold that was given or published."""
        levels = table.thresholds if table else []
        if self.quality is not None and not levels:
            raise ParameterError(
                f"quality={self.quality!r} chooses among published thresholds, and there are none "
                f"for this {spec.name}; give threshold= instead"
            )
        if self.threshold is not None or not levels:
            return self.threshold
        place = {"slow": 0, "medium": (len(levels) - 1) // 2, "fast": len(levels) - 1}
        return levels[place[self.quality or "slow"]]

    def _table(self, spec: Spec, config: Mapping[str, Any]) -> TeaCacheTable | None:
        if self.table is not None:
            known = {table.id: table for table in spec.teacache}
            if self.table not in known:
                raise ParameterError(
                    f"{spec.name} has no table {self.table!r}{nearest(self.table, known)}"
                )
            return known[self.table]
        variant = [table for table in spec.teacache if table.ret_steps == self.use_ret_steps]
        found = published.table(self.name, variant, config)
        if found:
            return found
        if self.use_ret_steps and self.coefficients is None:
            raise ParameterError(
                f"use_ret_steps: that variant has no published coefficients for this {spec.name}; "
                "leave it out, or give coefficients"
            )
        return None

    def _probe(self, spec: Spec, table: TeaCacheTable | None) -> str:
        probe = self.probe or (table.probe if table else None)
        if probe is None:
            probe = "modulated_input" if "modulated_input" in spec.probes else None
            probe = probe or next(iter(spec.probes), None)
        if probe is None:
            raise DoesNotApplyError(
                f"{self.name} measures a probe, and the spec of {spec.name} lists none (probes:); "
                "fbcache, which measures what the first block adds, does apply"
            )
        if probe not in spec.probes:
            raise ParameterError(
                f"{self.name} measures a probe, and {spec.name} has none named {probe!r}"
                f"{nearest(probe, spec.probes)}"
            )
        return probe


def _range(table: TeaCacheTable | None) -> tuple[float, float] | None:
    if table is None or table.valid_for is None:
        return None
    low, high = table.valid_for
    return low, high


def _no_table(strategy: str, spec: Spec) -> str:
    known = ", ".join(table.id for table in spec.teacache)
    other = f"name a table with table= where one fits the checkpoint ({known}), " if known else ""
    return (
        f"{strategy} has no coefficients for this {spec.name}: {other}give coefficients=, fitted "
        "on runs without cache (autocache.calibrate does it; highest order first, and (1, 0) takes "
        "the change as it is), or choose a strategy that needs none, such as easycache, fbcache or "
        "dit_block"
    )
