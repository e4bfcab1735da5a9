"""The golden traces of the methods' own implementations, run on scalars."""

from __future__ import annotations

import pytest

import autocache
from toy import SPEC, ToyBlock, ToyDenoiser, added, executed

DIT_BLOCK = [
    pytest.param(
        5,
        7,
        {"step_start": 1, "step_interval": 2, "block_start": 2, "block_end": 6},
        ["CCCCCCC", "CCCCCCC", "CCrrrrC", "CCCCCCC", "CCrrrrC"],
        [28, 56, 66, 112, 122],
        id="middle-range",
    ),
    pytest.param(
        6,
        4,
        {"step_start": 0, "step_interval": 3, "block_start": 0, "block_end": 4},
        ["CCCC", "rrrr", "rrrr", "CCCC", "rrrr", "rrrr"],
        [10, 10, 10, 40, 40, 40],
        id="whole-stack",
    ),
    pytest.param(
        4,
        4,
        {"step_start": 1, "step_interval": 2, "block_start": 1, "block_end": 2},
        ["CCCC", "CCCC", "CrCC", "CCCC"],
        [10, 20, 28, 40],
        id="one-block-corrected",
    ),
    pytest.param(
        4,
        4,
        {
            "step_start": 1,
            "step_interval": 2,
            "block_start": 1,
            "block_end": 2,
            "mindie_compat": True,
        },
        ["CCCC", "CCCC", "CrCC", "CCCC"],
        [10, 20, 2026, 40],
        id="one-block-as-upstream",
    ),
    pytest.param(
        6,
        2,
        {"step_start": 0, "step_interval": 2, "step_end": 3, "block_start": 0, "block_end": 2},
        ["CC", "rr", "CC", "rr", "CC", "CC"],
        [3, 3, 9, 9, 15, 18],
        id="step-end-honoured",
    ),
    pytest.param(
        6,
        2,
        {
            "step_start": 0,
            "step_interval": 2,
            "step_end": 3,
            "block_start": 0,
            "block_end": 2,
            "mindie_compat": True,
        },
        ["CC", "rr", "CC", "rr", "CC", "rr"],
        [3, 3, 9, 9, 15, 15],
        id="step-end-ignored-as-upstream",
    ),
]


@pytest.mark.parametrize(("steps", "blocks", "parameters", "rows", "sums"), DIT_BLOCK)
def test_dit_block(steps, blocks, parameters, rows, sums):
    """dit_block executes the blocks and adds the amounts of MindIE-SD's golden traces."""
    model = ToyDenoiser(blocks)
    with autocache.patched(model, "dit_block", spec=SPEC, **parameters):
        assert added(model, steps) == sums
    assert executed(model, steps) == rows


ATTENTION = [
    (7, {"step_start": 1, "step_interval": 3, "step_end": 5}, "C0 C1 r1 r1 C4 r4 C6"),
    (
        10,
        {"step_start": 0, "step_interval": 2, "step_end": 10000},
        "C0 r0 C2 r2 C4 r4 C6 r6 C8 r8",
    ),
    (8, {"step_start": 2, "step_interval": 3, "step_end": 6}, "C0 C1 C2 r2 r2 C5 r5 C7"),
    (8, {"step_start": 2, "step_interval": 2, "step_end": 7}, "C0 C1 C2 r2 C4 r4 C6 r6"),
    (6, {"step_start": 2, "step_interval": 3, "step_end": 2}, "C0 C1 C2 C3 C4 C5"),
]


@pytest.mark.parametrize(("steps", "parameters", "trace"), ATTENTION)
def test_attention(steps, parameters, trace):
    """attention returns the outputs of the steps that MindIE-SD's golden traces name."""
    model = ToyDenoiser(3)
    with autocache.patched(model, "attention", spec=SPEC, **parameters):
        added(model, steps)
    for block in model.blocks:
        assert isinstance(block, ToyBlock)
        seen = [f"{'C' if s == i else 'r'}{s}" for i, s in enumerate(block.attended)]
        assert " ".join(seen) == trace


def test_second_generation_repeats_the_first():
    """A loop that starts over is a new generation: it is computed and skipped as the first was."""
    model = ToyDenoiser(4)
    with autocache.patched(model, "dit_block", spec=SPEC, step_start=0, step_interval=3) as patch:
        assert added(model, 6) == added(model, 6) == [10, 10, 10, 40, 40, 40]
        assert patch.stats().generations == 2
