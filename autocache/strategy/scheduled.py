"""What every strategy on a fixed interval of steps shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from autocache.strategy.recipe import Strategy
from autocache.when import Interval

if TYPE_CHECKING:
    from autocache.spec.tables import Preset

DERIVED_INTERVAL = 2
DERIVED_START = 0.2
"""Share of the steps before the first that is kept, where no preset says otherwise: the earliest
steps decide what is where."""


class Scheduled(Strategy):
    """A strategy whose steps follow an `Interval`; steps count from 0."""

    step_start: int | None = Field(
        None, ge=0, description="first step that is kept for later ones; it is computed itself"
    )
    step_interval: int | None = Field(
        None, ge=1, description="steps from one computed step to the next; 1 never skips"
    )
    step_end: int | None = Field(
        None, ge=0, description="last step that may skip; nothing is kept from it on"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Scheduled:
        start, end = self.step_start, self.step_end
        if start is not None and end is not None and end < start:
            raise ValueError(f"step_end={end} is before step_start={start}")
        return self

    def interval(self, published: Preset | None, end_share: float) -> Interval:
        """The schedule: what was given, else the preset's at any step count, else derived."""
        known = dict(published.parameters) if published else {}
        steps = published.steps if published else None

        def share(name: str, derived: float) -> float:
            return known[name] / steps if steps and name in known else derived

        return Interval(
            interval=self.step_interval or known.get("step_interval", DERIVED_INTERVAL),
            start=self.step_start,
            end=self.step_end,
            start_share=share("step_start", DERIVED_START),
            end_share=share("step_end", end_share),
        )
