"""When to reuse attention for a speed-up, as MindIE searches it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from autocache.errors import ParameterError
from autocache.tuning.mindie.found import (
    Evaluate,
    Found,
    Tell,
    best,
    check,
    decimal,
    evaluated,
    up_to,
)


def search_attention(
    evaluate: Evaluate,
    *,
    steps: int,
    ratio: float,
    share: float = 1.0,
    starts: Iterable[int] | None = None,
    wider: int = 0,
    tell: Tell | None = None,
) -> list[Found]:
    """Parameters of `attention` that reach a speed-up, the three of least error, best first.

    Args:
        evaluate: from parameters to their error.
        steps, ratio, share, starts, wider: as for `attention_candidates`.
        tell: hears of every candidate.

    Raises:
        ParameterError: an argument is out of range, or no candidate reaches the ratio.
    """
    candidates = attention_candidates(
        steps=steps, ratio=ratio, share=share, starts=starts, wider=wider
    )
    return best(evaluated(evaluate, chosen, tell) for chosen in candidates)


def attention_candidates(
    *,
    steps: int,
    ratio: float,
    share: float = 1.0,
    starts: Iterable[int] | None = None,
    wider: int = 0,
) -> list[dict[str, Any]]:
    """What `search_attention` evaluates.

    From each start the smallest interval that can reuse in `ceil(T (1 - 1/ratio) / share)` of the
    T steps; with it the earliest last step that does, and the third from the end if that does.

    Args:
        steps: denoiser calls of one generation in each guidance branch.
        ratio: the speed-up to reach, above 1.
        share: part of the denoiser's work that is in attention; 1 as published, which counts
            attention alone.
        starts: first steps that are kept; from the fifth, or a fifth of the steps where they are
            few, to half of them.
        wider: intervals tried beyond the smallest.

    Raises:
        ParameterError: an argument is out of range, or no candidate reaches the ratio.
    """
    if starts is None:
        starts = range(min(5, steps // 5), steps // 2 + 1)
    starts = tuple(starts)
    check(steps=steps, ratio=ratio, interval=2, starts=starts)
    if not 0 < share <= 1:
        raise ParameterError(f"share={share}: expected above 0 and at most 1")
    needed = math.ceil(steps * (1 - 1 / decimal(ratio)) / decimal(share))
    most = steps - 1 - min(starts)
    if needed > most:
        spared = decimal(share) * most
        raise ParameterError(
            f"ratio={ratio} needs attention reused in {needed} of {steps} steps, and from step "
            f"{min(starts)} on there are {most}; with {share:.3g} of the work in attention, "
            + up_to(steps / (steps - spared))
        )
    return [
        {"step_start": start, "step_interval": interval, "step_end": end}
        for start in dict.fromkeys(starts)
        for interval, end in _windows(steps, start, needed, wider)
    ]


def generations_attention(
    *,
    steps: int,
    ratio: float,
    share: float = 1.0,
    starts: Iterable[int] | None = None,
    wider: int = 0,
) -> int:
    """The generations that `search_attention` needs, the one without a cache among them.

    Raises:
        ParameterError: as `search_attention` does.
    """
    return 1 + len(
        attention_candidates(steps=steps, ratio=ratio, share=share, starts=starts, wider=wider)
    )


def _windows(steps: int, start: int, needed: int, wider: int) -> Iterator[tuple[int, int]]:
    """Interval and last step of what is tried from a start."""
    room = steps - 1 - start
    smallest = next((k for k in range(2, room + 2) if room - room // k >= needed), None)
    for interval in range(smallest, min(smallest + wider, room + 1) + 1) if smallest else ():
        earliest = next(n for n in range(room + 1) if n - n // interval >= needed)
        late = room - 2
        # To end on a computed step is to end before it.
        same = earliest == late - (late % interval == 0)
        for length in (earliest,) if same else (earliest, late):
            if length - length // interval >= needed:
                yield interval, start + length
