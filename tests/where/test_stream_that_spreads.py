"""A stream that comes in for one sample and leaves for the whole batch, as negative prompts do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autocache
from tiny import build

FLUX = "FluxTransformer2DModel"
SAMPLES = 3
ALWAYS: dict[str, dict[str, Any]] = {
    "dit_block": {"step_start": 0, "step_interval": 2, "block_start": 0},
    "teacache": {"threshold": 1e9, "coefficients": (1.0, 0.0), "max_consecutive_skips": 1},
    "fbcache": {"threshold": 1e9, "max_consecutive_skips": 1},
    "magcache": {
        "threshold": 1e9,
        "ratios": (1.0, 1.0),
        "retention": 0,
        "max_consecutive_skips": 1,
    },
}
"""Every second step is skipped."""


def given(time: float, samples: slice = slice(None)) -> dict[str, Any]:
    """One prompt for several pictures, as FluxPipeline hands on its negative prompt."""
    _, inputs = build(FLUX)
    one = inputs(time)
    shape = one["hidden_states"].shape[1:]
    drawn = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(5))[samples]
    pooled = one["pooled_projections"].expand(len(drawn), -1)
    return {**one, "hidden_states": drawn, "pooled_projections": pooled}


def generated(
    model: nn.Module, strategy: str, samples: slice = slice(None)
) -> tuple[list[torch.Tensor], list[int]]:
    """The outputs of four steps, and how many blocks each skipped."""
    with torch.no_grad(), autocache.patched(model, strategy, **ALWAYS[strategy]) as patch:
        outputs = [model(**given(900.0 - step, samples))[0] for step in range(4)]
        return outputs, [step.blocks_skipped for step in patch.stats().steps]


@pytest.mark.parametrize("strategy", ALWAYS)
def test_each_sample_is_as_it_is_alone(strategy: str) -> None:
    """As many blocks are skipped as for a single sample, whose streams stay as they are."""
    model, _ = build(FLUX)
    assert given(900.0)["encoder_hidden_states"].shape[0] == 1
    together, skipped = generated(model, strategy)
    for nth in range(SAMPLES):
        alone, expected = generated(model, strategy, slice(nth, nth + 1))
        assert skipped == expected
        assert expected[1] >= 5
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[nth : nth + 1], one, rtol=1e-4, atol=1e-4)


def test_another_number_of_samples_is_computed() -> None:
    """What was kept for more of them does not stand in for fewer, nor the other way round."""
    model, _ = build(FLUX)
    with torch.no_grad(), autocache.patched(model, "fbcache", threshold=1e9) as patch:
        for step, samples in enumerate((3, 2, 2, 3)):
            output = model(**given(900.0 - step, slice(0, samples)))[0]
            assert output.shape[0] == samples
        actions = [step.action for step in patch.stats().steps]
    assert actions == ["computed", "computed", "reused", "computed"]
