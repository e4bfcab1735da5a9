"""auto: a fixed schedule or a guarded one, a forecast over true time, and its late correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autocache.how import Forecast
from autocache.runtime.limits import Limits
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import OneOf, Range, Tunable
from autocache.when import Guarded, Placed
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.spec.bind import Bound

MOST_SKIPS = 8
"""Steps in a row that may be skipped where an estimate decides: what it knows is of the past."""


class Auto(Strategy):
    """Compute one of so many steps, forecast the others, and make good for it at the next one.

    The computed steps lie where trajectories bend, so nothing is measured to decide: no
    calibration, no host sync, the same steps in every guidance branch and on every rank. With
    `max_error` a hard prompt costs time and not quality: steps are computed too where the outputs
    of this generation bend so much that the forecast is expected to be further off. Of a batch the
    worst sample counts, and the first guidance branch of a step decides for all. It acts on the
    whole denoiser and wants no model spec.

    Formula: of n steps computed are k = n / speedup, the j-th from 0 where (j / (k - 1/2))^1.5 of
    the way from noise to picture is done, by the share of noise in the latent; skipped, y = y1 +
    d^2 (y1 - y0) (t - t1) / (t1 - t0), d in [0, 1] the damping that was best at t1; computed after
    skipped ones, y + sum of c_m (q(t_m) - y_m) over these, q the polynomial through the last four
    computed outputs, y_m what was filled in, c_m what the scheduler makes of an output at t_m
    beside one at t. With `max_error` e = mean|F| |t - t1| |t - t0| / mean|y1| is expected, F the
    second divided difference of the last three outputs (or half of that before, if larger), and a
    step is computed where the sum of e since the last one would exceed max_error.

    Memory: three outputs for each guidance branch. An output has the size of the picture, far below
    s.

    Choose it: first; with `max_error` where prompts differ and a host sync for each computed step
    does not matter. The error is an estimate from the steps before, not a bound: 0.05 is about
    twice as fast at 28 steps, 0 computes all. With `speedup` too the schedule's steps are computed
    in any case. With schedulers of higher order, random ones and those that clip there is no
    correction, only the forecast.

    Source: our own; the forecast is TaylorSeer's idea over true time, the correction that of
    predictor-corrector methods for differential equations, as UniPC (arXiv 2302.04867) has it for
    whole steps.
    """

    name: ClassVar[str] = "auto"
    needs_spec: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "speedup": Range(1.2, 6.0, log=True, about="speedup", usual=2.0),
        "correction": OneOf((None, 0, 1, 2, 3)),
    }

    speedup: float | None = Field(
        None,
        ge=1,
        description="steps of the generation for each computed one; 2 without max_error, with it "
        "as many as it allows",
    )
    max_error: float | None = Field(
        None,
        ge=0,
        description="error, relative to the output, that steps skipped in a row may add up to by "
        "estimate; more are computed where it would be exceeded, at a host sync for each computed "
        "step",
    )
    correction: int | None = Field(
        3, ge=0, le=3, description="order of the correction's polynomial; None leaves it out"
    )

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        how, limits = Forecast(self.correction), Limits(warmup=1)
        if self.max_error is None:
            return Recipe(Placed(self.speedup or 2.0), Denoiser(), how, limits)
        when = Guarded(Placed(self.speedup) if self.speedup else None, self.max_error)
        limits = Limits(warmup=1, max_consecutive_skips=MOST_SKIPS, shared=True)
        return Recipe(when, Denoiser(), how, limits)
