"""What a search may vary of a strategy: the values that are worth trying, declared beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    `of` has the ends be shares of all blocks of the model or of all steps of the generation, and
    the value a whole number of them, at least `least`. `log` tries small and large values alike.
    `usual` is what a search starts with where the parameter has no default of its own. `about` says
    that the value comes near the speed-up, or the share of the compute that is left: a search for
    a given speed-up starts there.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    of: Literal["blocks", "steps"] | None = None
    least: int = 0
    usual: float | None = None
    about: Literal["speedup", "compute"] | None = None

    def ends(self, blocks: int, steps: int) -> tuple[float, float]:
        """The lowest and the highest value, for a model and a generation of that size."""
        return self._number(self.low, blocks, steps), self._number(self.high, blocks, steps)

    def start(self, default: Any, blocks: int, steps: int, speedup: float | None = None) -> Any:
        """The value to begin with: what the speed-up asks for, the parameter's default, or what
        usually suits."""
        if self.about is not None and speedup is not None:
            near = speedup if self.about == "speedup" else 1 / speedup
            default = round(near) if self.whole else near
        if default is not None:
            low, high = self.ends(blocks, steps)
            return min(max(default, low), high)
        assert self.usual is not None
        return self._number(self.usual, blocks, steps)

    def _number(self, value: float, blocks: int, steps: int) -> float:
        if self.of is None:
            return int(value) if self.whole else value
        return max(self.least, round(value * {"blocks": blocks, "steps": steps}[self.of]))


@dataclass(frozen=True)
class OneOf:
    """One of a few values: text, numbers, None or true and false."""

    values: tuple[Any, ...]

    def start(self, default: Any, blocks: int, steps: int, speedup: float | None = None) -> Any:
        """The value to begin with: the parameter's default."""
        return default


@dataclass(frozen=True)
class Pair:
    """Two numbers of which the second is above the first: a window, or a range of blocks."""

    first: Range
    second: Range

    def start(
        self, default: Any, blocks: int, steps: int, speedup: float | None = None
    ) -> tuple[Any, Any]:
        """The values to begin with: the parameter's default, or what usually suits."""
        one, other = default or (None, None)
        _, most = self.first_ends(blocks, steps)
        first = min(self.first.start(one, blocks, steps), most)
        return first, max(self.second.start(other, blocks, steps), first + 1)

    def first_ends(self, blocks: int, steps: int) -> tuple[float, float]:
        """The ends of the first, which leaves room for the second."""
        low, high = self.first.ends(blocks, steps)
        most = self.second.ends(blocks, steps)[1] - 1
        return min(low, most), min(high, most)

    def second_ends(self, first: float, blocks: int, steps: int) -> tuple[float, float]:
        """The ends of the second, once the first is known."""
        low, high = self.second.ends(blocks, steps)
        return max(low, first + 1), high


Tunable = Range | OneOf | Pair
