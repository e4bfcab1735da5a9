"""What a tuning takes, stated before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    again: int = 0
    """Inputs that a trial runs twice: those of the first of several calls of the pipeline."""
    compared: int = 4
    """Candidates whose pictures are compared beside the trials."""
    timed: bool = False
    """Whether two runs are timed to know what speed-up is asked for."""
    trials: int = TRIALS
    """Of each search."""

    def within(self, budget: int | None) -> Cost:
        """With as many trials as the budget allows.

        Raises:
            ParameterError: it allows so few that nothing is searched.
        """
        if budget is None:
            return self
        trials = int((budget - self.fixed) / (self.searches * self.trial) + 1e-6)
        if trials < LEAST:
            raise ParameterError(
                f"budget={budget}: a search takes {replace(self, trials=LEAST)}. Allow so many, or "
                "give fewer inputs"
            )
        return replace(self, trials=trials)

    @property
    def trial(self) -> float:
        """What one trial spends."""
        return (self.inputs + self.again) * self.share

    @property
    def fixed(self) -> float:
        """What is spent whatever the trials: the inputs plain, once as pictures and once recorded,
        and with each candidate whose pictures are compared; the held-out inputs plain and with the
        best, once to measure and once to time each, and one of them to look at. What is done on a
        single call beside all this is left out."""
        begun = 2 + (2.25 if self.timed else 0.0)
        ended = 2 * (1 + self.share) * self.held_out + 1
        return (begun + self.compared * self.share) * self.inputs + ended

    @property
    def generations(self) -> int:
        """In all."""
        return math.ceil(self.fixed + self.searches * self.trials * self.trial - 1e-6)

    def __str__(self) -> str:
        searches = f"{self.searches} x " if self.searches > 1 else ""
        return (
            f"about {self.generations} full generations: {searches}{self.trials} trials on "
            f"{self.inputs} inputs at {self.share:.0%} of a generation's compute, and "
            f"{round(self.fixed)} to record and measure"
        )
