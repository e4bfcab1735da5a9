"""Which range of blocks to skip for a speed-up, as MindIE searches it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from autocache.errors import ParameterError
from autocache.tuning.mindie.found import (
    BEST,
    Evaluate,
    Found,
    Tell,
    best,
    check,
    decimal,
    evaluated,
    up_to,
)

LENGTHS = 8
"""Lengths of range tried from each of the best places."""


def search_dit_block(
    evaluate: Evaluate,
    *,
    blocks: int,
    steps: int,
    ratio: float,
    interval: int = 2,
    starts: tuple[int, ...] = (0, 5),
    upstream_rounding: bool = False,
    offset: int = 0,
    tell: Tell | None = None,
) -> list[Found]:
    """Parameters of `dit_block` that reach a speed-up, the three of least error, best first.

    First the shortest range is tried at every place but the first block, from the latest of
    `starts` on; then, from the three best places, up to seven blocks more and every start.

    Args:
        evaluate: from parameters to their error.
        blocks: number of blocks there are; they are taken to cost the same, and all there is.
        steps: denoiser calls of one generation in each guidance branch.
        ratio: the speed-up to reach, above 1.
        interval: steps from one computed step to the next, 2 or more.
        starts: first steps that are kept for later ones.
        upstream_rounding: round as upstream does, which can fall short of the ratio; see
            `shortest_range`.
        offset: blocks of the model before the first of these, which those of one stack are.
        tell: hears of every candidate.

    Raises:
        ParameterError: an argument is out of range, or no range reaches the ratio.
    """
    length = shortest_range(
        blocks=blocks,
        steps=steps,
        ratio=ratio,
        interval=interval,
        starts=starts,
        upstream_rounding=upstream_rounding,
    )

    def candidate(first: int, count: int, start: int) -> Found:
        # Without an end the published preset of a checkpoint would give one.
        chosen = {
            "block_start": offset + first,
            "block_end": offset + first + count,
            "step_start": start,
            "step_interval": interval,
            "step_end": steps - 1,
        }
        return evaluated(evaluate, chosen, tell)

    late = max(starts)
    pool = best(candidate(first, length, late) for first in range(1, blocks - length + 1))
    for first in [one.parameters["block_start"] - offset for one in pool]:
        for count, start in _longer(first, blocks, length, starts):
            pool.append(candidate(first, count, start))
    return best(pool)


def shortest_range(
    *,
    blocks: int,
    steps: int,
    ratio: float,
    interval: int = 2,
    starts: tuple[int, ...] = (0, 5),
    upstream_rounding: bool = False,
) -> int:
    """The fewest blocks to skip for a speed-up, when skipping begins at the latest of `starts`.

    Formula: `ceil(B (1 - (T/ratio - s - refresh) / (T - s - refresh)))` with B blocks, T steps, s
    the latest start and `refresh = ceil((T - s) / interval)`. With `upstream_rounding` refresh is
    rounded down and so is the result: for B=40, T=50, ratio 1.3 it gives 20 blocks and a speed-up
    of 1.282, where 21 blocks give 1.300.

    Raises:
        ParameterError: an argument is out of range, or no range of fewer blocks than there are
            reaches the ratio.
    """
    check(steps=steps, ratio=ratio, interval=interval, starts=starts)
    after = steps - max(starts)
    refresh = after // interval if upstream_rounding else -(-after // interval)
    reused = after - refresh
    if reused < 1:
        raise ParameterError(
            f"starts={starts}: from step {max(starts)} on no step of {steps} is left to skip at an "
            f"interval of {interval}; start earlier"
        )
    exact = blocks * steps * (1 - 1 / decimal(ratio)) / reused
    length = math.floor(exact) if upstream_rounding else math.ceil(exact)
    if not 0 < length < blocks:
        raise ParameterError(
            f"ratio={ratio} needs {length} of {blocks} blocks skipped in {reused} of {steps} "
            "steps; " + _feasible(blocks, steps, reused, upstream_rounding)
        )
    return length


def generations_dit_block(
    *,
    blocks: int,
    steps: int,
    ratio: float,
    interval: int = 2,
    starts: tuple[int, ...] = (0, 5),
    upstream_rounding: bool = False,
) -> int:
    """The most generations that `search_dit_block` needs, the one without a cache among them.

    Raises:
        ParameterError: as `search_dit_block` does.
    """
    length = shortest_range(
        blocks=blocks,
        steps=steps,
        ratio=ratio,
        interval=interval,
        starts=starts,
        upstream_rounding=upstream_rounding,
    )
    places = range(1, blocks - length + 1)
    # The lower the place, the more room there is for longer ranges.
    longer = (len(list(_longer(first, blocks, length, starts))) for first in places[:BEST])
    return 1 + len(places) + sum(longer)


def _longer(
    first: int, blocks: int, length: int, starts: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Length and start of what is tried at a place, but for what was tried there already."""
    for count in range(length, min(length + LENGTHS, blocks - first)):
        for start in dict.fromkeys(starts):
            if (count, start) != (length, max(starts)):
                yield count, start


def _feasible(blocks: int, steps: int, reused: int, upstream_rounding: bool) -> str:
    whole = blocks * steps
    if not upstream_rounding:
        return up_to(Fraction(whole, whole - (blocks - 1) * reused))
    least, most = Fraction(whole, whole - reused), Fraction(steps, steps - reused)
    low, high = math.ceil(least * 1000) / 1000, (math.ceil(most * 1000) - 1) / 1000
    return f"feasible ratios are {low:.3f} to {high:.3f}"
