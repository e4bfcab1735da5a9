"""auto: a fixed schedule, a forecast over true time, and its late correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Forecast
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Placed
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class Auto(Strategy):
    """Compute one of so many steps, forecast the others, and make good for it at the next one.

    The computed steps lie where trajectories bend, so nothing is measured to decide: no
    calibration, no host sync, the same steps in every guidance branch and on every rank. It acts on
    the whole denoiser and wants no model spec.

    Formula: of n steps computed are k = n / speedup, the j-th where (j / k)^1.5 of the way from
    noise to picture is done, as an angle; skipped, y = y1 + d (y1 - y0) (t - t1) / (t1 - t0), d in
    [0, 1] the damping that was best at t1; computed after skipped ones, y + sum of c_m (q(t_m) -
    y_m) over these, q the polynomial through the last four computed outputs, y_m what was filled
    in, c_m what the scheduler makes of an output at t_m beside one at t.

    Memory: three outputs for each guidance branch. An output has the size of the picture, far below
    s.

    Choose it: first. A threshold looks at one step at a time; a schedule knows the whole. With
    schedulers of higher order, random ones and those that clip there is no correction, only the
    forecast.

    Source: our own; the forecast is TaylorSeer's idea over true time, the correction that of
    predictor-corrector methods for differential equations, as UniPC (arXiv 2302.04867) has it for
    whole steps.
    """

    name: ClassVar[str] = "auto"
    needs_spec: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "speedup": Range(1.2, 6.0, log=True, about="speedup"),
        "correction": OneOf((None, 0, 1, 2, 3)),
    }

    speedup: float = Field(2.0, ge=1, description="steps of the generation for each computed one")
    correction: int | None = Field(
        3, ge=0, le=3, description="order of the correction's polynomial; None leaves it out"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        return Recipe(Placed(self.speedup), Denoiser(), Forecast(self.correction), Limits(warmup=1))
