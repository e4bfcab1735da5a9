"""MindIE's two searches: what they try, in which order, and what they return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autocache.errors import ParameterError
from autocache.tuning.mindie import (
    AttentionSearch,
    BlockSearch,
    Found,
    generations_attention,
    generations_dit_block,
    search_attention,
    search_dit_block,
)

PUBLISHED: dict[str, Any] = {"blocks": 40, "steps": 50, "ratio": 1.3}


def skipping(steps: int, start: int, interval: int, end: int) -> int:
    """Steps that reuse, counted one by one."""
    return sum(start < n <= end and (n - start) % interval != 0 for n in range(steps))


def speedup(blocks: int, steps: int, length: int, start: int, interval: int = 2) -> Fraction:
    """By the blocks that run, each at the same cost."""
    skipped = length * skipping(steps, start, interval, steps - 1)
    return Fraction(blocks * steps, blocks * steps - skipped)


class Evaluations:
    """Takes down what it is asked, and answers with the error that it was made for."""

    def __init__(self, error: Callable[[Mapping[str, Any]], float]) -> None:
        self.error = error
        self.asked: list[dict[str, Any]] = []

    def __call__(self, parameters: Mapping[str, Any]) -> float:
        self.asked.append(dict(parameters))
        return self.error(parameters)


def ranges(asked: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """First block, number of blocks, start."""
    return [
        (one["block_start"], one["block_end"] - one["block_start"], one["step_start"])
        for one in asked
    ]


def test_the_shortest_range_is_the_published_one() -> None:
    """Upstream rounds down and stays below the ratio; the exact length reaches it."""
    upstream = BlockSearch(**PUBLISHED, upstream_rounding=True).length
    exact = BlockSearch(**PUBLISHED).length
    assert (upstream, exact) == (20, 21)
    assert float(speedup(40, 50, upstream, 5)) == pytest.approx(1.282, abs=5e-4)
    assert float(speedup(40, 50, exact, 5)) == pytest.approx(1.300, abs=5e-4)
    assert speedup(40, 50, exact, 5) >= Fraction(13, 10)


@pytest.mark.parametrize(
    ("blocks", "steps", "ratio", "length"),
    [(10, 28, 1.25, 4), (9, 30, 1.5, 6), (11, 20, 1.1, 2)],
)
def test_rounding_noise_adds_no_block(blocks: int, steps: int, ratio: float, length: int) -> None:
    """Each of these is a whole number, and a little more than that in floating point."""
    refresh = steps // 2
    noisy = blocks * (1 - (steps / ratio - refresh) / (steps - refresh))
    assert math.ceil(noisy) == length + 1
    assert BlockSearch(blocks=blocks, steps=steps, ratio=ratio, starts=(0,)).length == length


@given(
    blocks=st.integers(2, 60),
    steps=st.integers(4, 100),
    hundredths=st.integers(101, 300),
    interval=st.integers(2, 6),
    start=st.integers(0, 20),
)
def test_the_shortest_range_is_the_first_that_reaches_the_ratio(
    blocks: int, steps: int, hundredths: int, interval: int, start: int
) -> None:
    assume(start < steps - 1)
    ratio = Fraction(hundredths, 100)
    reaching = (
        length
        for length in range(1, blocks)
        if speedup(blocks, steps, length, start, interval) >= ratio
    )
    shortest = next(reaching, None)
    arguments: dict[str, Any] = {
        "blocks": blocks,
        "steps": steps,
        "ratio": hundredths / 100,
        "interval": interval,
        "starts": (start,),
    }
    if shortest is None:
        with pytest.raises(ParameterError, match="feasible ratios are"):
            BlockSearch(**arguments)
    else:
        assert BlockSearch(**arguments).length == shortest


@pytest.mark.parametrize("upstream", [False, True])
@given(blocks=st.integers(3, 60), steps=st.integers(8, 100), interval=st.integers(2, 4))
def test_the_ratios_it_calls_feasible_are(
    upstream: bool, blocks: int, steps: int, interval: int
) -> None:
    def length(ratio: float) -> int:
        return BlockSearch(
            blocks=blocks,
            steps=steps,
            ratio=ratio,
            interval=interval,
            upstream_rounding=upstream,
        ).length

    with pytest.raises(ParameterError) as refusal:
        length(100)
    most = float(str(refusal.value).split()[-1])
    assume(most > 1.01)
    assert 0 < length(most) < blocks
    with pytest.raises(ParameterError):
        length(round(most + 0.001, 3))


def test_every_place_is_tried_first_then_longer_ranges_at_the_three_best() -> None:
    """Block 0 is never skipped; of the second stage none reaches the last block."""
    # The places 7, 3 and 12 are best, and the longer the range the worse.
    rank = {7: 1, 3: 2, 12: 3}
    evaluations = Evaluations(
        lambda p: rank.get(p["block_start"], 9) + (p["block_end"] - p["block_start"]) / 100
    )
    search_dit_block(evaluations, **PUBLISHED)
    first = [(place, 21, 5) for place in range(1, 20)]
    second = [
        (place, length, start)
        for place in (7, 3, 12)
        for length in range(21, 29)
        if place + length < 40
        for start in (0, 5)
        if (length, start) != (21, 5)
    ]
    assert ranges(evaluations.asked) == first + second
    assert len(second) == 15 + 15 + 13
    assert {one["step_interval"] for one in evaluations.asked} == {2}
    assert {one["step_end"] for one in evaluations.asked} == {49}


def test_the_second_stage_leaves_out_a_range_that_ends_with_the_last_block() -> None:
    evaluations = Evaluations(lambda p: -p["block_start"])
    search_dit_block(evaluations, **PUBLISHED)
    # The best places are 19, 18, 17: the first has no room, the others that of one block and two.
    assert ranges(evaluations.asked)[19:] == [
        (18, 21, 0),
        (17, 21, 0),
        (17, 22, 0),
        (17, 22, 5),
    ]


@given(errors=st.randoms(use_true_random=False), upstream=st.booleans())
def test_it_returns_the_three_of_least_error(errors: Any, upstream: bool) -> None:
    told: list[Found] = []
    evaluations = Evaluations(lambda _: errors.random())
    found = search_dit_block(evaluations, **PUBLISHED, upstream_rounding=upstream, tell=told.append)
    assert [one.error for one in found] == sorted(one.error for one in told)[:3]
    assert [one.parameters for one in told] == evaluations.asked
    assert len(told) + 1 <= generations_dit_block(**PUBLISHED, upstream_rounding=upstream) <= 66


def test_its_cost_is_known_before() -> None:
    """66 generations with upstream's 20 blocks, as published; fewer where there is less room."""
    assert generations_dit_block(**PUBLISHED, upstream_rounding=True) == 66
    assert generations_dit_block(**PUBLISHED) == 65
    evaluations = Evaluations(lambda p: p["block_start"])
    small: dict[str, Any] = {"blocks": 8, "steps": 28, "ratio": 1.3}
    search_dit_block(evaluations, **small)
    assert len(evaluations.asked) + 1 == generations_dit_block(**small)


def test_the_blocks_of_one_stack_are_named_as_the_model_counts_them() -> None:
    alone, behind = Evaluations(lambda p: p["block_start"]), Evaluations(lambda p: p["block_start"])
    search_dit_block(alone, **PUBLISHED)
    search_dit_block(behind, **PUBLISHED, offset=20)
    moved = [(first + 20, count, start) for first, count, start in ranges(alone.asked)]
    assert ranges(behind.asked) == moved


def test_an_error_that_is_no_number_is_the_worst() -> None:
    found = search_dit_block(
        lambda p: math.nan if p["step_start"] == 5 else p["block_end"], **PUBLISHED
    )
    assert [one.parameters["step_start"] for one in found] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 1.0}, "ratio=1.0: expected a speed-up above 1"),
        ({"ratio": 2.5}, "ratio=2.5 needs 55 of 40 blocks .* above 1 and up to 1.751"),
        ({"interval": 1}, "interval=1: expected 2 or more"),
        ({"starts": (0, 50)}, "expected steps from 0 to 49"),
        ({"starts": (49,)}, "no step of 50 is left to skip"),
        ({"starts": ()}, "expected steps from 0 to 49"),
    ],
)
def test_what_cannot_be_searched_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        search_dit_block(lambda _: 0.0, **{**PUBLISHED, **wrong})


@given(
    steps=st.integers(8, 100),
    hundredths=st.integers(101, 180),
    share=st.floats(0.1, 1),
    wider=st.integers(0, 2),
)
def test_every_attention_candidate_reuses_as_often_as_it_must(
    steps: int, hundredths: int, share: float, wider: int
) -> None:
    ratio = Fraction(hundredths, 100)
    arguments: dict[str, Any] = {
        "steps": steps,
        "ratio": hundredths / 100,
        "share": share,
        "wider": wider,
    }
    needed = steps * (1 - 1 / ratio) / Fraction(str(share))
    if needed > steps - 1 - min(5, steps // 5):
        with pytest.raises(ParameterError, match="feasible ratios are above 1 and up to"):
            AttentionSearch(**arguments)
        return
    candidates = AttentionSearch(**arguments).candidates()
    patterns = [(c["step_start"], c["step_interval"], c["step_end"]) for c in candidates]
    assert patterns
    assert len(set(patterns)) == len(patterns)
    for start, interval, end in patterns:
        assert skipping(steps, start, interval, end) >= needed
        # It ends with the step that makes it enough, or with the third from the end.
        assert end == steps - 3 or skipping(steps, start, interval, end - 1) < needed
        narrower = interval - wider - 1
        assert narrower < 2 or skipping(steps, start, narrower, steps - 1) < needed


@pytest.mark.parametrize(
    ("steps", "ratio", "share", "options", "published"),
    [
        pytest.param(50, 1.2, 0.325, {}, (9, 3, 47), id="HunyuanVideo"),
        pytest.param(40, 1.2, 0.355, {}, (12, 4, 37), id="Wan2.1-14B"),
        pytest.param(50, 1.1, 0.34, {}, (20, 2, 47), id="Wan2.1-1.3B"),
        pytest.param(100, 1.3, 0.315, {}, (9, 6, 97), id="HunyuanDiT"),
        pytest.param(
            100,
            1.4,
            1,
            {"starts": tuple(range(50, 70)), "wider": 1},
            (60, 5, 97),
            id="Stable-Audio-Open",
        ),
    ],
)
def test_the_published_schedules_are_among_the_candidates(
    steps: int,
    ratio: float,
    share: float,
    options: dict[str, Any],
    published: tuple[int, int, int],
) -> None:
    """At a share that the published ratio and number of reusing steps allow."""
    found = AttentionSearch(steps=steps, ratio=ratio, share=share, **options).candidates()
    assert published in [tuple(one.values()) for one in found]


def test_the_attention_search_returns_the_three_of_least_error() -> None:
    arguments: dict[str, Any] = {"steps": 50, "ratio": 1.2, "share": 0.325}
    evaluations = Evaluations(lambda p: abs(p["step_start"] - 9) + p["step_end"] / 100)
    told: list[Found] = []
    found = search_attention(evaluations, **arguments, tell=told.append)
    assert evaluations.asked == AttentionSearch(**arguments).candidates()
    assert len(evaluations.asked) + 1 == generations_attention(**arguments)
    assert [one.error for one in found] == sorted(one.error for one in told)[:3]
    assert found[0].parameters == {"step_start": 9, "step_interval": 3, "step_end": 47}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 0.9}, "ratio=0.9: expected a speed-up above 1"),
        ({"share": 0}, "share=0: expected above 0"),
        ({"share": 0.2}, "ratio=1.2 needs .* in 42 of 50 steps, .* there are 29; .* up to 1.131"),
        ({"starts": ()}, "expected steps from 0 to 49"),
    ],
)
def test_an_attention_search_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "steps": 50,
        "ratio": 1.2,
        "share": 0.5,
        "starts": tuple(range(20, 30)),
    }
    with pytest.raises(ParameterError, match=said):
        search_attention(lambda _: 0.0, **{**arguments, **wrong})
