"""When to reuse attention for a speed-up, as MindIE searches it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autocache.errors import ParameterError
from autocache.tuning.mindie.found import (
    Evaluate,
    Found,
    Tell,
    TryAll,
    best,
    check,
    decimal,
    one_by_one,
    up_to,
)


@dataclass(frozen=True)
class AttentionSearch:
    """Parameters of `attention` that reach a speed-up.

    From each start the smallest interval that can reuse in as many steps as the ratio takes; with
    it the earliest last step that does, and the third from the end if that does.

    Raises:
        ParameterError: an argument is out of range, or no candidate reaches the ratio.
    """

    steps: int
    """Denoiser calls of one generation in each guidance branch."""
    ratio: float
    """The speed-up to reach, above 1."""
    share: float = 1.0
    """Part of the denoiser's work that is in attention; 1 as published, which counts attention
    alone."""
    starts: tuple[int, ...] | None = None
    """First steps that are kept for later ones; by default from the fifth, or a fifth of the steps
    where they are few, to half of them."""
    wider: int = 0
    """Intervals tried beyond the smallest."""

    def __post_init__(self) -> None:
        check(steps=self.steps, ratio=self.ratio, interval=2, starts=self._starts)
        if not 0 < self.share <= 1:
            raise ParameterError(f"share={self.share}: expected above 0 and at most 1")
        first = min(self._starts)
        most = self.steps - 1 - first
        if self.needed > most:
            least = self.steps - decimal(self.share) * most
            raise ParameterError(
                f"ratio={self.ratio} needs attention reused in {self.needed} of {self.steps} "
                f"steps, and from step {first} on there are {most}; with {self.share:.3g} of the "
                f"work in attention, {up_to(self.steps / least)}"
            )

    @functools.cached_property
    def needed(self) -> int:
        """Steps in which attention is reused: `ceil(T (1 - 1/ratio) / share)` of T steps."""
        return math.ceil(self.steps * (1 - 1 / decimal(self.ratio)) / decimal(self.share))

    @property
    def generations(self) -> int:
        """What the search needs, the one without a cache among them."""
        return 1 + len(self.candidates())

    def run(self, try_all: TryAll) -> list[Found]:
        """The three of least error, best first."""
        return best(try_all("windows", self.candidates()))

    def candidates(self) -> list[dict[str, Any]]:
        """All that is evaluated."""
        return [
            {"step_start": start, "step_interval": interval, "step_end": end}
            for start in dict.fromkeys(self._starts)
            for interval, end in self._windows(start)
        ]

    @property
    def _starts(self) -> tuple[int, ...]:
        if self.starts is not None:
            return self.starts
        return tuple(range(min(5, self.steps // 5), self.steps // 2 + 1))

    def _windows(self, start: int) -> Iterator[tuple[int, int]]:
        """Interval and last step of what is tried from a start."""
        room = self.steps - 1 - start
        reaching = (k for k in range(2, room + 2) if room - room // k >= self.needed)
        smallest = next(reaching, None)
        if smallest is None:
            return
        for interval in range(smallest, min(smallest + self.wider, room + 1) + 1):
            earliest = next(n for n in range(room + 1) if n - n // interval >= self.needed)
            yield interval, start + earliest
            late = room - 2
            # To end on a computed step is to end before it.
            same = earliest == late - (late % interval == 0)
            if late - late // interval >= self.needed and not same:
                yield interval, start + late


def search_attention(
    evaluate: Evaluate, *, steps: int, ratio: float, tell: Tell | None = None, **options: Any
) -> list[Found]:
    """The three `attention` candidates of least error, best first; see `AttentionSearch`.

    Args:
        evaluate: from parameters to their error, lower is better.
        steps, ratio: of `AttentionSearch`.
        tell: hears of every candidate.
        **options: `share`, `starts` and `wider` of `AttentionSearch`.

    Raises:
        ParameterError: an argument is out of range, or no candidate reaches the ratio.
    """
    return AttentionSearch(steps=steps, ratio=ratio, **options).run(one_by_one(evaluate, tell))


def generations_attention(*, steps: int, ratio: float, **options: Any) -> int:
    """The generations that `search_attention` needs, the one without a cache among them.

    Raises:
        ParameterError: as `search_attention` does.
    """
    return AttentionSearch(steps=steps, ratio=ratio, **options).generations
