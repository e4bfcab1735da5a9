"""Fewer steps: the baseline that every cache must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Always
from autocache.where import Timesteps

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class FewerSteps(Strategy):
    """Have the pipeline take fewer or other steps than it asks its scheduler for.

    The pipeline's call stays as it is, which makes this the baseline to hold any cache against. By
    default it takes half the steps, exactly as if the pipeline had been asked for that many.

    Formula: set_timesteps(n) becomes set_timesteps(min(steps, n)) or set_timesteps(ratio n); lists
    that pipelines make, linspace(1, 1/n, n) and linspace(1, 0, n + 1) without its end, are made
    anew for that many; of any other list every (n / steps)-th value stays.

    Memory: none.

    Choose it: to compare with, or below a cache that acts on the steps that are left. It needs a
    pipeline, and one that starts at its first step: image-to-image counts its steps by itself.

    Source: every comparison of caches; for optimised grids Align Your Steps, arXiv 2404.14507.
    """

    name: ClassVar[str] = "fewer_steps"
    needs_spec: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "ratio": Range(0.15, 1.0, usual=0.5, about="compute"),
    }

    steps: int | None = Field(None, ge=1, description="steps to take, if more were asked for")
    ratio: float | None = Field(
        None, gt=0, le=1, description="share of the steps to take; 0.5 where nothing is given"
    )
    timesteps: tuple[float, ...] | None = Field(
        None, min_length=1, description="the timesteps themselves, on the scheduler's scale"
    )
    sigmas: tuple[float, ...] | None = Field(
        None, min_length=1, description="the noise levels themselves, before the scheduler's shift"
    )
    indices: tuple[int, ...] | None = Field(
        None, min_length=1, description="the original steps to take, counted from 0, rising"
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> FewerSteps:
        ways = self._ways()
        if len(ways) > 1:
            raise ValueError(f"give only one of {' and '.join(ways)}")
        if self.indices is not None and list(self.indices) != sorted(set(map(abs, self.indices))):
            raise ValueError(f"indices={list(self.indices)} must rise from 0 on, each index once")
        return self

    def _ways(self) -> dict[str, Any]:
        ways = {
            "steps": self.steps,
            "ratio": self.ratio,
            "times": self.timesteps,
            "sigmas": self.sigmas,
            "indices": self.indices,
        }
        return {name: value for name, value in ways.items() if value is not None}

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        where = Timesteps(**(self._ways() or {"ratio": 0.5}))
        return Recipe(when=Always(), where=where, how=Reuse())
