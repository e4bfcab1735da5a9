"""A pattern of computed steps, given step by step or made for any number of steps."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from autocache.errors import nearest
from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When

Bins = tuple[tuple[int, ...], tuple[int, ...]]
"""Lengths of the runs of computed steps, and of the runs of other steps after each."""

_SHORT: dict[int, Bins] = {4: ((2, 1), (1,)), 6: ((3, 1), (2,))}
PUBLISHED: dict[str, dict[int, Bins]] = {
    "slow": {
        **_SHORT,
        8: ((5, 1, 1), (1,)),
        9: ((5, 2, 1), (1,)),
        15: ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
        28: ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    },
    "medium": {
        **_SHORT,
        8: ((4, 1, 1), (1, 1)),
        9: ((5, 1, 1), (1, 1)),
        15: ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
        28: ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    },
    "fast": {
        **_SHORT,
        8: ((3, 1, 1), (1, 2)),
        9: ((4, 1, 1), (1, 2)),
        15: ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
        28: ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    },
    "ultra": {
        **_SHORT,
        8: ((2, 1, 1), (2, 2)),
        9: ((3, 1, 1), (2, 2)),
        15: ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
        28: ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
    },
}
"""cache-dit's patterns, by the number of steps they were made for."""
LONGEST = 28


@dataclass(frozen=True)
class Mask(When):
    """Compute the steps that a pattern marks, skip the others.

    `pattern` is a text of 1 (computed) and 0, step by step from step 0, or the name of one of
    cache-dit's patterns, which follows from the generation's total (28 where that is not known).
    Steps after its end are computed. `history` is how many computed steps before a skipped one are
    remembered. A text is of a generation of `of` steps and marks the same share of any other;
    without it, each its own step. `computes` can also bound another rule, as `Limits(mask=...)`.

    Source: cache-dit's steps computation mask.
    """

    pattern: str
    history: int = 1
    of: int | None = None

    def counted_in(self, steps: int) -> Mask:
        return replace(self, of=steps)

    def __post_init__(self) -> None:
        if self.pattern not in PUBLISHED and (not self.pattern or set(self.pattern) - set("01")):
            raise ValueError(
                f"{self.pattern!r} is no step pattern{nearest(self.pattern, PUBLISHED)}; expected "
                f"{', '.join(PUBLISHED)}, or a 1 for each computed step and a 0 for each other"
            )

    @classmethod
    def computing(cls, steps: Iterable[int], total: int, history: int = 1) -> Mask:
        """The mask of a generation of `total` steps that computes just these."""
        marked = set(steps)
        return cls("".join("1" if step in marked else "0" for step in range(total)), history)

    def computes(self, step: int, total: int | None) -> bool:
        """Whether a step is marked."""
        pattern = self.pattern
        if pattern in PUBLISHED:
            pattern = published(pattern, LONGEST if total is None else total)
        elif self.of and total:
            step = step * self.of // total
        return step >= len(pattern) or pattern[step] == "1"

    def decide(self, moment: Moment) -> Decision:
        step, total = moment.step, moment.total
        if not self.computes(step, total):
            return Decision(compute=False)
        ahead = range(1, self.history + 1)
        keep = not all(self.computes(step + n, total) for n in ahead)
        return Decision(compute=True, keep=keep)


@functools.cache
def published(name: str, total: int) -> str:
    """A published pattern for `total` steps: the next longer one cut, the longest one stretched.

    The last step is always computed.
    """
    made = PUBLISHED[name]
    computed, others = made[min((n for n in made if n >= total), default=LONGEST)]
    bins = [*computed], [*others]
    _stretch(bins, (computed, others), total)
    _cut(bins, total)
    runs = itertools.zip_longest(*bins, fillvalue=0)
    pattern = "".join("1" * run + "0" * gap for run, gap in runs)
    return pattern[: total - 1] + "1"


def _size(bins: tuple[list[int], list[int]]) -> int:
    return sum(map(sum, bins))


def _stretch(bins: tuple[list[int], list[int]], made: Bins, total: int) -> None:
    """Lengthen run by run, each in proportion, until there are enough steps."""
    factor = total / LONGEST * 0.5
    pairs = itertools.product(range(len(made[1])), (0, 1))
    rounds = [(kind, nth, max(int(made[kind][nth] * factor), 1)) for nth, kind in pairs]
    for kind, nth, more in itertools.cycle([*rounds, (0, -1, 1)]):
        if _size(bins) >= total:
            return
        bins[kind][nth] += more


def _cut(bins: tuple[list[int], list[int]], total: int) -> None:
    """Shorten the last runs of both kinds in turn until there are not too many steps."""
    for runs in itertools.cycle((bins[1], bins[0])):
        if _size(bins) <= total:
            return
        if runs:
            runs[-1] -= 1
            if not runs[-1]:
                runs.pop()
