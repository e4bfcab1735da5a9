"""schedule: steps computed as someone chose them, the others filled in, as `tune` finds it best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from autocache.how import Forecast, Weighted
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.when import Chosen, Guarded
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class Schedule(Strategy):
    """Compute the chosen steps; fill the others in with fitted weights, or as `auto` does.

    `autocache.tune` finds the steps and fits the weights on a model of yours, and a profile keeps
    them. Nothing is measured to decide. A generation of another length computes the same share of
    its steps; the weights then do not apply and the forecast stands in, which the log says.

    Formula: from the nth computed step to the next, y = sum of w_nj y_j over the last computed
    outputs y_j, the weights w of each guidance branch its own; without weights the forecast and
    late correction of `auto`.

    Memory: three outputs for each guidance branch. An output has the size of the picture, far below
    s.

    Choose it: through `autocache.tune`, where a model runs often enough that a few minutes of
    search pay; by hand, where a schedule is known.

    Source: our own. Solvers fitted to the trajectories of one model are known from Bespoke
    Non-Stationary Solvers (arXiv 2403.01329); here the fit is least squares, step after step, and
    the target the full run of the user's own scheduler.
    """

    name: ClassVar[str] = "schedule"
    fitted: ClassVar[tuple[str, ...]] = ("weights",)
    needs_spec: ClassVar[bool] = False

    steps: tuple[int, ...] = Field(description="computed steps, counted from 0, in their order")
    total: int = Field(ge=1, description="steps of the generation they were chosen for")
    weights: dict[str, list[list[list[float]]]] | None = Field(
        None,
        description="by guidance branch, computed step and part of the batch: what the last "
        "computed outputs count for from there to the next, the latest first",
    )
    correction: int | None = Field(
        3, ge=0, le=3, description="order of the forecast's correction; None leaves it out"
    )
    max_error: float | None = Field(
        None,
        ge=0,
        description="as auto's, without weights only: more steps are computed where the error "
        "expected of skipped ones would exceed it",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Schedule:
        if self.weights is not None and self.max_error is not None:
            raise ValueError(
                "weights belong to just these computed steps, and max_error adds others; give one"
            )
        ordered = sorted(set(self.steps))
        if list(self.steps) != ordered or not ordered or ordered[0] != 0:
            raise ValueError(f"steps={list(self.steps)} must rise from 0")
        if ordered[-1] >= self.total:
            raise ValueError(f"steps name step {ordered[-1]}, and there are {self.total}, from 0")
        for branch, steps in (self.weights or {}).items():
            if len(steps) != len(ordered):
                raise ValueError(
                    f"weights[{branch!r}] has {len(steps)} entries; expected one for each of the "
                    f"{len(ordered)} computed steps"
                )
            for nth, parts in enumerate(steps):
                if not parts or not all(1 <= len(part) <= nth + 1 for part in parts):
                    raise ValueError(
                        f"weights[{branch!r}][{nth}] must have between 1 and {nth + 1} weights in "
                        "each part: no more outputs are computed by then"
                    )
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        forecast = Forecast(self.correction)
        how = forecast
        if self.weights is not None:
            how = Weighted(self.weights, self.steps, self.total, forecast)
        chosen = Chosen(self.steps, self.total, how.keep)
        if self.max_error is None:
            return Recipe(chosen, Denoiser(), how, Limits(warmup=1))
        limits = Limits(warmup=1, shared=True)
        return Recipe(Guarded(chosen, self.max_error), Denoiser(), how, limits)
