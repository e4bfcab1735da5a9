"""MagCache: skip the whole block stack while a table of magnitudes forecasts little error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autocache.errors import DoesNotApplyError, ParameterError, nearest
from autocache.how import Reuse
from autocache.runtime.limits import Limits
from autocache.spec.tables import MagCacheTable
from autocache.strategy import published
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Magnitude
from autocache.where import Blocks

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.spec.schema import Spec

Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratios = Annotated[tuple[Ratio, ...], Field(min_length=2)]


class MagCache(Strategy):
    """Skip all blocks while the magnitudes of a calibration run forecast little error.

    Nothing is measured while it runs: which steps skip follows from the checkpoint's table of
    ratios, one per step, and from the number of steps. Without parameters the published table is
    used, with its gentlest published settings.

    Formula: since the last computed step a *= ratio[i] and e += |1 - a|; a step skips while
    e <= threshold. A skipped step is x + R, with R what the blocks added in the last computed one.

    Memory: s per stream and block stack (FLUX's two count as one), in each guidance branch: s for
    one stream in one stack.

    Choose it: when there is a table for the checkpoint, and every prompt is to skip the same steps.
    Not without one; teacache measures where this looks up.

    Source: MagCache, arXiv 2506.09045. The retained first steps are rounded as in diffusers and in
    the authors' FLUX script; their Wan script rounds down (`retention_rounding`) and computes at
    equality (`strict`). The FLUX script never skips the step that is the 12th of 28; here none is
    special.
    """

    name: ClassVar[str] = "magcache"
    fitted: ClassVar[tuple[str, ...]] = ("ratios",)
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "threshold": Range(0.005, 1.0, log=True, usual=0.06),
        "retention": Range(0.0, 0.4, usual=0.2),
        "max_consecutive_skips": Range(1, 8, whole=True, usual=3),
    }

    threshold: float | None = Field(
        None, ge=0, description="forecast error that may add up in skipped steps; 0 never skips"
    )
    retention: float | None = Field(
        None, ge=0, le=1, description="share of the steps that is computed at the start"
    )
    table: str | None = Field(None, description="id of the spec's table of ratios to use")
    ratios: Ratios | dict[Literal["all", "cond", "uncond"], Ratios] | None = Field(
        None, description="ratios to use instead, one per step, or such for each guidance branch"
    )
    retention_rounding: Literal["nearest", "down"] = Field(
        "nearest", description="how the number of steps computed at the start is rounded"
    )
    strict: bool = Field(False, description="compute where the error is equal to the threshold")

    @model_validator(mode="after")
    def _one_table(self) -> MagCache:
        if self.ratios is not None and self.table is not None:
            raise ValueError("give either a table or ratios")
        if isinstance(self.ratios, Mapping) and not {"all", "cond"} & set(self.ratios):
            raise ValueError("ratios need those of 'all' branches, or of 'cond' and 'uncond'")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        bound.stack()  # A model without blocks has no use for the ratios that would be asked for.
        table = self._table(bound.spec, config)
        ratios = table.ratios.get("all") or table.ratios["cond"]
        other = table.ratios.get("uncond")
        when = Magnitude(
            ratios=tuple(ratios),
            threshold=_first(self.threshold, table.threshold, 0.06),
            retention=_first(self.retention, table.retention, 0.2),
            uncond=tuple(other) if other else None,
            round_down=self.retention_rounding == "down",
            strict=self.strict,
        )
        limits = Limits(max_consecutive_skips=table.max_consecutive_skips or 3)
        return Recipe(when=when, where=Blocks(), how=Reuse(), limits=limits)

    def _table(self, spec: Spec, config: Mapping[str, Any]) -> MagCacheTable:
        if self.ratios is not None:
            given = self.ratios if isinstance(self.ratios, dict) else {"all": self.ratios}
            lists: Any = {branch: list(ratios) for branch, ratios in given.items()}
            return MagCacheTable(id="given", ratios=lists, source="given")
        known = {table.id: table for table in spec.magcache}
        if self.table is not None:
            if self.table not in known:
                near = nearest(self.table, known)
                raise ParameterError(f"{spec.name} has no table {self.table!r}{near}")
            return known[self.table]
        found = published.table(self.name, spec.magcache, config)
        if found is None:
            raise DoesNotApplyError(_no_table(spec, list(known)))
        return found


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _no_table(spec: Spec, known: list[str]) -> str:
    tables = f"name a table with table= where one fits the checkpoint ({', '.join(known)}), or "
    return (
        f"magcache has no magnitude ratios for this {spec.name}: {tables if known else ''}give "
        "ratios=, one per step: each the mean over the tokens of |R_i| / |R_(i-1)|, R_i being what "
        "all blocks add in step i of a run without cache (autocache.calibrate measures them)"
    )
