"""Numbers of steps that are those of a generation of a known length."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autocache.runtime.limits import Limits
from autocache.runtime.shares import scaled, window
from autocache.when import Always, Centred, Codebook, Conditional, Interval, Mask, When
from autocache.when.motion import Motion


@pytest.mark.parametrize(
    ("count", "of", "total", "expected"),
    [
        (4, 28, 28, 4),
        (4, 28, 14, 2),
        (4, 28, 50, 7),
        (2, 28, 5, 1),
        (1, 28, 280, 1),
        (0, 28, 50, 0),
        (4, None, 50, 4),
        (4, 28, None, 4),
    ],
)
def test_a_count_is_the_same_share(
    count: int, of: int | None, total: int | None, expected: int
) -> None:
    """Never none where there was one, and one stays one; unknown lengths change nothing."""
    assert scaled(count, of, total) == expected


@pytest.mark.parametrize(
    ("bounds", "of", "total", "expected"),
    [
        ((0, 27), 28, 50, (0, 49)),
        ((7, 20), 28, 14, (4, 9)),
        ((7, None), 28, 56, (14, None)),
        ((7, 20), 28, 28, (7, 20)),
        ((7, 20), None, 50, (7, 20)),
    ],
)
def test_a_window_covers_the_same_share(
    bounds: tuple[int, int | None],
    of: int | None,
    total: int | None,
    expected: tuple[int, int | None],
) -> None:
    """Whole generations stay whole."""
    assert window(*bounds, of, total) == expected


def test_a_schedule_begins_and_ends_at_the_same_share() -> None:
    """What follows from the total by itself does as before."""
    given = Interval(3, start=4, end=20).counted_in(28)
    assert given.bounds(28) == Interval(3, start=4, end=20).bounds(28) == (4, 20)
    assert given.bounds(56) == (8, 41)
    assert given.bounds(None) == (4, 20)
    shares = Interval(3, start_share=0.25, end_share=0.5)
    assert shares.counted_in(28).bounds(50) == shares.bounds(50)


def test_a_mask_marks_the_same_share() -> None:
    """A text is stretched or cut; a published pattern follows the total by itself."""
    text = Mask("1100").counted_in(4)
    assert [text.computes(step, 8) for step in range(8)] == [True] * 4 + [False] * 4
    assert [text.computes(step, 2) for step in range(2)] == [True, False]
    assert [text.computes(step, None) for step in range(4)] == [True, True, False, False]
    named = Mask("fast")
    assert [named.counted_in(28).computes(n, 15) for n in range(15)] == [
        named.computes(n, 15) for n in range(15)
    ]


def test_a_centre_lies_at_the_same_share() -> None:
    """And a derived one does anyway."""
    assert Centred(3, center=7).counted_in(28).steps(56) == Centred(3, center=14).steps(56)
    assert Centred(3).counted_in(28).steps(56) == Centred(3).steps(56)


def test_rules_inside_of_rules_are_reached() -> None:
    """Whichever rule it is; one without numbers of steps stays as it is."""

    @dataclass(frozen=True)
    class Wrapping(When):
        first: When
        second: When | None = None

    wrapped = Wrapping(Conditional(Interval(2, start=3)))
    assert wrapped.counted_in(28) == Wrapping(Conditional(Interval(2, start=3, of=28)))
    assert Always().counted_in(28) == Always()


def test_the_steps_at_which_motion_counts_are_of_their_own_generation() -> None:
    """Published ones know theirs."""
    mine = Codebook(Always(), motion=Motion(steps=(3, 9)))  # type: ignore[arg-type]
    known = Codebook(Always(), motion=Motion(steps=(3, 9), of=30))  # type: ignore[arg-type]
    assert mine.counted_in(28).motion == Motion(steps=(3, 9), of=28)
    assert known.counted_in(28).motion == known.motion
    assert Codebook(Always()).counted_in(28).motion is None  # type: ignore[arg-type]


def test_limits_keep_what_is_no_share_of_the_generation() -> None:
    """Skips in a row are a distance between two computed steps."""
    given = Limits(warmup=4, max_consecutive_skips=3, max_skips=10).counted_in(28)
    assert (given.of, given.warmup, given.max_consecutive_skips) == (28, 4, 3)
