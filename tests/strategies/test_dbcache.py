"""Dual Block Cache on scalars and tiny models. `tests/parity` compares it with cache-dit's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autocache
from autocache.errors import ParameterError
from tiny import build
from toy import SPEC, ToyDenoiser, added, executed
from trajectory import NAMES, run

FLOAT = 4
FLUX_IMAGE, FLUX_TEXT = 16 * 32 * FLOAT, 12 * 32 * FLOAT
"""Bytes of the two streams of the tiny Flux."""


def toy(steps: int = 10, blocks: int = 5, **options) -> tuple[list[str], list[float]]:
    """What ran and what was added, on the scalars."""
    model = ToyDenoiser(blocks)
    with autocache.patched(model, "dbcache", spec=SPEC, **{"warmup_steps": 0, **options}):
        sums = added(model, steps)
    return executed(model, steps), sums


def rows(trace: str, skipped: str) -> list[str]:
    return [{"C": "C" * len(skipped), "r": skipped}[letter] for letter in trace]


def test_scalars():
    """The first two blocks and the last one always run; the middle adds what it last did."""
    ran, sums = toy(fn=2, bn=1, threshold=0.5)
    assert ran == rows("CCCrCrrCrr", "CCrrC")
    # Five blocks add 15 (i + 1); a skipped step adds 8 (i + 1) and the middle's 7 (c + 1).
    assert sums == [15, 30, 45, 53, 75, 83, 91, 120, 128, 136]


def test_a_forecast_of_what_is_linear_is_exact():
    """With an order of 1 the middle is continued: skipped steps add what computed ones would."""
    ran, sums = toy(fn=2, bn=1, threshold=0.5, order=1)
    assert ran == rows("CCCrCrrCrr", "CCrrC")
    # The forecast is added up in float32.
    assert sums == pytest.approx([15 * (step + 1) for step in range(10)])


@pytest.mark.parametrize(
    ("options", "trace"),
    [
        ({"threshold": 0.9}, "CCrCrrrCrr"),
        ({"threshold": 0.9, "warmup_steps": None}, "CCCCCCCCrr"),
        ({"threshold": 0.9, "warmup_steps": 6, "warmup_interval": 3}, "CCrCrrrCrr"),
        ({"threshold": 2.0, "max_consecutive_skips": 2}, "CrrCrrCrrC"),
        ({"threshold": 2.0, "max_skips": 3}, "CrrrCCCCCC"),
        ({"threshold": 2.0, "last_steps": 2}, "Crrrrrrrrr"),
        ({"threshold": 2.0, "mask": "1000110000"}, "CrrrCCrrrr"),
        ({"threshold": 0.2, "mask": [1, 0, 0, 0, 1, 1, 0, 0, 0, 0]}, "CCCCCCrCrC"),
        (
            {"threshold": 0.01, "mask": "1000110000", "mask_policy": "static"},
            "CrrrCCrrrr",
        ),
        ({"threshold": 0.9, "accumulated_limit": 0.4}, "CCrCrrCrrC"),
        ({"threshold": 0.9, "accumulated_limit": 1.4, "accumulated_resets": False}, "CCrCCCCCCC"),
    ],
)
def test_limits_and_masks(options, trace):
    """Each limit and mask on the scalars; the last step counts only where the total is known."""
    assert toy(fn=2, bn=1, **options)[0] == rows(trace, "CCrrC")


@settings(max_examples=40, deadline=None)
@given(
    threshold=st.floats(0.01, 0.99),
    blocks=st.integers(2, 5),
    reference=st.sampled_from(["last_computed", "previous_step"]),
)
def test_one_first_block_and_no_limits_is_fbcache(threshold, blocks, reference):
    """F1B0 without warm-up on one stack is First Block Cache."""
    options = {"threshold": threshold, "reference": reference}
    model = ToyDenoiser(blocks)
    with autocache.patched(model, "fbcache", spec=SPEC, **options):
        sums = added(model, 12)
    assert toy(12, blocks, fn=1, **options) == (executed(model, 12), sums)


@pytest.mark.parametrize("name", NAMES)
def test_joined_stacks_are_fbcache(name):
    """F1B0 without warm-up, all stacks as one, is First Block Cache on every model."""
    model, inputs = build(name)
    with autocache.patched(model, "fbcache", threshold=0.5):
        expected = run(model, inputs, 12)
    options = {"fn": 1, "threshold": 0.5, "warmup_steps": 0, "joined": True}
    with autocache.patched(model, "dbcache", **options) as patch:
        assert all(map(torch.equal, run(model, inputs, 12), expected))
        assert patch.stats().blocks.share < 1


def test_the_accumulated_change():
    """It ends a run of skips; unless it resets, skipping ends for good, as upstream."""
    model, inputs = build("WanTransformer3DModel")
    shares = []
    for resets in (True, False):
        options = {"fn": 1, "threshold": 0.2, "warmup_steps": 2, "accumulated_limit": 0.3}
        options["accumulated_resets"] = resets
        with autocache.patched(model, "dbcache", **options) as patch:
            run(model, inputs, 30)
            shares.append(patch.stats().blocks.share)
    assert shares[0] < shares[1] < 1


@pytest.mark.parametrize("order", [0, 1, 2])
def test_memory(order):
    """Per stack the reference, and `order + 1` residuals of each stream of the middle."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"fn": 1, "threshold": 0.9, "warmup_steps": 4, "order": order}
    with autocache.patched(model, "dbcache", **options) as patch:
        run(model, inputs, 12)
        held = patch.stats().bytes_peak
    assert held == 2 * (FLUX_IMAGE + (order + 1) * (FLUX_IMAGE + FLUX_TEXT))


def test_a_static_mask_keeps_no_reference():
    """It decides without looking, so only the middle's residuals are kept."""
    model, inputs = build("WanTransformer3DModel")
    options = {"mask": "110110", "mask_policy": "static"}
    with autocache.patched(model, "dbcache", **options) as patch:
        run(model, inputs, 6)
        stats = patch.stats()
    assert stats.bytes_peak == (2 * 4 * 4) * 24 * FLOAT
    assert [step.action for step in stats.steps] == [
        "reused" if step in (2, 5) else "computed" for step in range(6)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_of_zero_computes_everything(name):
    """Bit for bit the plain model, with nothing kept."""
    model, inputs = build(name)
    plain = run(model, inputs, 6)
    with autocache.patched(model, "dbcache", threshold=0, warmup_steps=0) as patch:
        assert all(map(torch.equal, run(model, inputs, 6), plain))
        assert patch.stats().bytes_peak == 0
    assert all(map(torch.equal, run(model, inputs, 6), plain))


def test_stacks_decide_apart_and_generations_repeat():
    """Each stack has steps of its own; a second generation repeats the first."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"fn": 1, "threshold": 0.25, "warmup_steps": 2}
    with autocache.patched(model, "dbcache", **options) as patch:
        first, second = run(model, inputs, 16), run(model, inputs, 16)
        records = patch.stats().steps
    assert all(map(torch.equal, first, second))
    skipped = [
        [record.step for record in records if record.sites.get(f"{path}[1:3]") == "reused"]
        for path in ("transformer_blocks", "single_transformer_blocks")
    ]
    assert skipped[0] != skipped[1]
    assert all(skipped)


def test_the_default_leaves_half_of_a_short_stack():
    """Eight first blocks where that is at most half of the stack, else half of it."""
    for layers, first in ((3, 1), (12, 6), (20, 8)):
        model, inputs = build("WanTransformer3DModel", num_layers=layers)
        with autocache.patched(model, "dbcache", threshold=0.9, warmup_steps=0) as patch:
            run(model, inputs, 3)
            assert f"blocks[{first}:{layers}]" in patch.stats().steps[1].sites


def test_a_stack_that_is_too_short_is_left_alone():
    """The other stack is cached; where there is none the error tells the sizes."""
    model, inputs = build("FluxTransformer2DModel", num_layers=2, num_single_layers=4)
    with autocache.patched(model, "dbcache", fn=1, bn=1, warmup_steps=0, threshold=1) as patch:
        run(model, inputs, 3)
        assert set(patch.stats().steps[1].sites) == {"single_transformer_blocks[1:3]"}
    with pytest.raises(ParameterError, match=r"fn=3 and bn=1 leave no block.*single.* 4\)"):
        autocache.patch(model, "dbcache", fn=3, bn=1)
    with pytest.raises(ParameterError, match=r"transformer_blocks of .* has 2"):
        autocache.patch(model, "dbcache", fn=3, joined=True)
    assert not autocache.is_patched(model)


def test_chosen_blocks_may_be_of_one_stack():
    """`blocks` narrows what is skipped, and a stack without any of them is left alone."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"fn": 1, "warmup_steps": 0, "threshold": 1.0}
    with autocache.patched(model, "dbcache", blocks=(4, 5), **options) as patch:
        run(model, inputs, 3)
        assert set(patch.stats().steps[1].sites) == {"single_transformer_blocks[1:2]"}
    with pytest.raises(ParameterError, match="none of the 6"):
        autocache.patch(model, "dbcache", blocks=(3, 4), **options)
    with pytest.raises(ParameterError, match="no range"):
        autocache.patch(model, "dbcache", blocks=(4, 9), **options)


def test_wrong_masks_are_refused():
    """The errors name what was expected."""
    with pytest.raises(ParameterError, match=r"did you mean 'slow'|slow, medium, fast, ultra"):
        autocache.patch(ToyDenoiser(3), "dbcache", spec=SPEC, mask="slwo")
    with pytest.raises(ParameterError, match="needs a mask"):
        autocache.patch(ToyDenoiser(3), "dbcache", spec=SPEC, mask_policy="static")


def test_a_mask_is_written_as_text():
    """A list of bits and a text of them are one value, which records and files hold as text."""
    model, _ = build("WanTransformer3DModel")
    with autocache.patched(model, "dbcache", mask=[1, 1, 0]) as patch:
        assert patch.stats().parameters == {"mask": "110"}
