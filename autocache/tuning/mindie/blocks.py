"""Which range of blocks to skip for a speed-up, as MindIE searches it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from autocache.errors import ParameterError
from autocache.tuning.mindie.found import (
    BEST,
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

LENGTHS = 8
"""Lengths of range tried from each of the best places."""


@dataclass(frozen=True)
class BlockSearch:
    """Parameters of `dit_block` that reach a speed-up.

    First the shortest range that does is tried at every place but the first block, from the latest
    of `starts` on; then, from the three best places, up to seven blocks more and every start.

    Raises:
        ParameterError: an argument is out of range, or no range of fewer blocks than there are
            reaches the ratio.
    """

    blocks: int
    """Number of blocks there are; they are taken to cost the same, and all there is."""
    steps: int
    """Denoiser calls of one generation in each guidance branch."""
    ratio: float
    """The speed-up to reach, above 1."""
    interval: int = 2
    """Steps from one computed step to the next, 2 or more."""
    starts: tuple[int, ...] = (0, 5)
    """First steps that are kept for later ones."""
    upstream_rounding: bool = False
    """Round as upstream does, which can fall short of the ratio."""
    offset: int = 0
    """Blocks of the model before the first of these, where these are those of one stack."""

    def __post_init__(self) -> None:
        check(steps=self.steps, ratio=self.ratio, interval=self.interval, starts=self.starts)
        if not 0 < self.length < self.blocks:
            raise ParameterError(
                f"ratio={self.ratio} needs {self.length} of {self.blocks} blocks skipped in "
                f"{self._reused} of {self.steps} steps; {self._feasible()}"
            )

    @functools.cached_property
    def length(self) -> int:
        """The fewest blocks to skip, when skipping begins at the latest of `starts`.

        Formula: `ceil(B (1 - (T/ratio - s - refresh) / (T - s - refresh)))` with B blocks, T
        steps, s the latest start and `refresh = ceil((T - s) / interval)`. With
        `upstream_rounding` refresh is rounded down and so is the result: for B=40, T=50, ratio 1.3
        it gives 20 blocks and a speed-up of 1.282, where 21 blocks give 1.300.
        """
        exact = self.blocks * self.steps * (1 - 1 / decimal(self.ratio)) / self._reused
        return math.floor(exact) if self.upstream_rounding else math.ceil(exact)

    @property
    def generations(self) -> int:
        """The most that the search needs, the one without a cache among them."""
        places = self.places()
        # The lower the place, the more room there is for longer ranges.
        longer = (len(list(self._longer(1 + nth))) for nth in range(min(BEST, len(places))))
        return 1 + len(places) + sum(longer)

    def run(self, try_all: TryAll) -> list[Found]:
        """The three of least error, best first."""
        pool = best(try_all("places", self.places()))
        firsts = [one.parameters["block_start"] - self.offset for one in pool]
        longer = [
            self._candidate(first, count, start)
            for first in firsts
            for count, start in self._longer(first)
        ]
        return best([*pool, *try_all("lengths", longer)])

    def places(self) -> list[dict[str, Any]]:
        """The candidates of the first stage."""
        late = max(self.starts)
        firsts = range(1, self.blocks - self.length + 1)
        return [self._candidate(first, self.length, late) for first in firsts]

    def _longer(self, first: int) -> Iterator[tuple[int, int]]:
        """Length and start of what else is tried at a place."""
        for count in range(self.length, min(self.length + LENGTHS, self.blocks - first)):
            for start in dict.fromkeys(self.starts):
                if (count, start) != (self.length, max(self.starts)):
                    yield count, start

    def _candidate(self, first: int, count: int, start: int) -> dict[str, Any]:
        return {
            "block_start": self.offset + first,
            "block_end": self.offset + first + count,
            "step_start": start,
            "step_interval": self.interval,
            # Without an end the published preset of a checkpoint would give one.
            "step_end": self.steps - 1,
        }

    @functools.cached_property
    def _reused(self) -> int:
        after = self.steps - max(self.starts)
        refresh = after // self.interval if self.upstream_rounding else -(-after // self.interval)
        if after == refresh:
            raise ParameterError(
                f"starts={self.starts}: from step {max(self.starts)} on no step of {self.steps} "
                f"is left to skip at an interval of {self.interval}; start earlier"
            )
        return after - refresh

    def _feasible(self) -> str:
        whole, reused = self.blocks * self.steps, self._reused
        if not self.upstream_rounding:
            return up_to(Fraction(whole, whole - (self.blocks - 1) * reused))
        least, most = Fraction(whole, whole - reused), Fraction(self.steps, self.steps - reused)
        low, high = math.ceil(least * 1000) / 1000, (math.ceil(most * 1000) - 1) / 1000
        return f"feasible ratios are {low:.3f} to {high:.3f}"


def search_dit_block(
    evaluate: Evaluate,
    *,
    blocks: int,
    steps: int,
    ratio: float,
    tell: Tell | None = None,
    **options: Any,
) -> list[Found]:
    """The three `dit_block` candidates of least error, best first; see `BlockSearch`.

    Args:
        evaluate: from parameters to their error, lower is better.
        blocks, steps, ratio: of `BlockSearch`.
        tell: hears of every candidate.
        **options: `interval`, `starts`, `upstream_rounding` and `offset` of `BlockSearch`.

    Raises:
        ParameterError: an argument is out of range, or no range reaches the ratio.
    """
    search = BlockSearch(blocks=blocks, steps=steps, ratio=ratio, **options)
    return search.run(one_by_one(evaluate, tell))


def generations_dit_block(*, blocks: int, steps: int, ratio: float, **options: Any) -> int:
    """The most generations that `search_dit_block` needs, the one without a cache among them.

    Raises:
        ParameterError: as `search_dit_block` does.
    """
    return BlockSearch(blocks=blocks, steps=steps, ratio=ratio, **options).generations
