"""What a tuning takes, stated before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from autocache.errors import ParameterError

TRIALS = 32
"""Of a search, where no budget is given."""
LEAST = 8
"""Trials below which a search is none: the starts alone are that many."""


@dataclass(frozen=True)
class Cost:
    """Full generations, each of one input: plain ones, and trials counted by their compute."""

    inputs: int
    held_out: int
    share: float
    """Of a generation's compute that a candidate has."""
    searches: int
    trials: int
    """Of each search."""

    @classmethod
    def plan(
        cls, inputs: int, held_out: int, share: float, searches: int, budget: int | None
    ) -> Cost:
        """As many trials as the budget allows.

        Raises:
            ParameterError: it allows so few that nothing is searched.
        """
        cost = cls(inputs, held_out, share, searches, TRIALS)
        if budget is None:
            return cost
        trials = int((budget - cost.fixed) / (searches * inputs * share))
        if trials < LEAST:
            needed = cls(inputs, held_out, share, searches, LEAST)
            raise ParameterError(
                f"budget={budget}: a search takes {needed}. Allow so many, or give fewer inputs"
            )
        return cls(inputs, held_out, share, searches, trials)

    @property
    def fixed(self) -> float:
        """What is spent whatever the trials: the inputs twice plain, once as pictures and once
        recorded, the best candidates again, and the held-out inputs plain and with the best."""
        return (2 + 4 * self.share) * self.inputs + (1 + self.share) * self.held_out

    @property
    def generations(self) -> int:
        """In all."""
        return round(self.fixed + self.searches * self.trials * self.inputs * self.share)

    def __str__(self) -> str:
        searches = f"{self.searches} x " if self.searches > 1 else ""
        return (
            f"about {self.generations} full generations: {searches}{self.trials} trials on "
            f"{self.inputs} inputs at {self.share:.0%} of a generation's compute, and "
            f"{round(self.fixed)} to record and measure"
        )
