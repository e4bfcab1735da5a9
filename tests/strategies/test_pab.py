"""Pyramid Attention Broadcast: paces, windows, the feed-forward's keys, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autocache
from autocache.spec.bind import bind
from autocache.strategy import get
from tiny import build


@torch.no_grad()
def outputs(model: Any, inputs: Any, steps: int = 10) -> list[torch.Tensor]:
    """The prediction of each step, of a latent that moves, at timesteps 950, 850 and so on."""
    scale = 0.001 if type(model).__name__.startswith("Flux") else 1.0
    made = []
    for step in range(steps):
        given = inputs((950 - 100 * step) * scale)
        given["hidden_states"] = given["hidden_states"] * (1 + 0.1 * step)
        made.append(model(**given)[0].clone())
    return made


def reused(patch: Any, module: str) -> str:
    """Per step, r where a module was reused and C where it was computed."""
    names = [step.sites.get(module, "computed") for step in patch.stats().steps]
    return "".join("r" if name == "reused" else "C" for name in names)


@pytest.mark.parametrize("reach", [2, 3, 5])
@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "CogVideoXTransformer3DModel"])
def test_over_everything_it_is_the_attention_strategy(name, reach):
    """A window of all timesteps and range n: attention from step 0 on, at interval n."""
    made = []
    for strategy, options in (
        ("pab", {"spatial_range": reach, "spatial_window": (-1, 1001)}),
        ("attention", {"step_start": 0, "step_interval": reach, "step_end": 9}),
    ):
        model, inputs = build(name)
        with autocache.patched(model, strategy, **options) as patch:
            made.append((outputs(model, inputs), [step.action for step in patch.stats().steps]))
    (ours, our_steps), (others, other_steps) = made
    assert all(map(torch.equal, ours, others))
    assert our_steps == other_steps
    assert our_steps[1] == "reused"


def test_each_kind_by_default():
    """Self attention every second and cross attention every sixth step, between 100 and 800."""
    model, inputs = build("WanTransformer3DModel")
    with autocache.patched(model, "pab") as patch:
        outputs(model, inputs)
        assert reused(patch, "blocks.1.attn1") == "CCCrCrCrCC"
        assert reused(patch, "blocks.1.attn2") == "CCrrrrCrrC"
        assert reused(patch, "blocks.1.ffn") == "C" * 10


def test_one_window_for_all():
    """`timestep_window`, which every strategy has, takes the place of each kind's own."""
    model, inputs = build("WanTransformer3DModel")
    options: dict[str, Any] = {"cross_window": (0, 1000), "timestep_window": (300, 500)}
    with autocache.patched(model, "pab", **options) as patch:
        outputs(model, inputs)
        assert reused(patch, "blocks.1.attn1") == "CCCCCrCCCC"
        assert reused(patch, "blocks.1.attn2") == "CCCCCrCCCC"


def test_the_feed_forward_of_some_blocks_at_some_timesteps():
    """Kept at the first step not above 700 and 300, reused in the next two, in two blocks."""
    model, inputs = build("WanTransformer3DModel")
    plain = outputs(model, inputs)
    options: dict[str, Any] = {"spatial_range": 1, "cross_range": 1}
    options |= {"feed_forward_timesteps": (700, 300), "feed_forward_blocks": (0, 2)}
    with autocache.patched(model, "pab", **options) as patch:
        made = outputs(model, inputs)
        stats = patch.stats()
        assert reused(patch, "blocks.0.ffn") == "CCCCrrCCrr"
        assert reused(patch, "blocks.1.ffn") == "CCCCrrCCrr"
        assert reused(patch, "blocks.2.ffn") == "C" * 10
    assert stats.attention.share == 1.0
    # Dropped after the second reuse, and kept anew.
    s = (2 * 4 * 4) * 24 * 4
    assert stats.bytes_peak == 2 * s
    assert [step.bytes for step in stats.steps] == [0, 0, 0, 2 * s, 2 * s, 0, 0, 2 * s, 2 * s, 0]
    same = [torch.equal(a, b) for a, b in zip(made, plain, strict=True)]
    assert same == [letter == "C" for letter in "CCCCrrCCrr"]


def test_memory():
    """One tensor for each attention: self and cross of Wan, two streams of Flux's double blocks."""
    s = (2 * 4 * 4) * 24 * 4
    for options, count in (({}, 6), ({"cross_range": 1}, 3), ({"blocks": (0, 1)}, 2)):
        model, inputs = build("WanTransformer3DModel")
        with autocache.patched(model, "pab", **options) as patch:
            outputs(model, inputs)
            assert patch.stats().bytes_peak == count * s
    model, inputs = build("FluxTransformer2DModel")
    with autocache.patched(model, "pab") as patch:
        outputs(model, inputs)
        assert patch.stats().bytes_peak == (3 + 3) * (16 + 12) * 32 * 4


def test_published_values():
    """CogVideoX's range and window; what is given stands."""
    model: Any = build("CogVideoXTransformer3DModel")[0]
    bound = bind(autocache.patch(model, "pab").spec, model)
    for given, expected in (({}, (100.0, 850.0)), ({"spatial_window": (50, 60)}, (50.0, 60.0))):
        (made,) = get("pab").create(**given).recipes(bound, {"_name_or_path": "THUDM/CogVideoX-5b"})
        assert (made.when.interval, made.limits.timesteps) == (2, expected)


def test_a_kind_that_is_not_there():
    """A pace for attention the model lacks is an error that names the kinds it has."""
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(autocache.errors.ParameterError, match="kinds of attention are joint"):
        autocache.patch(model, "pab", temporal_range=4)
    assert not autocache.is_patched(model)
    with pytest.raises(autocache.errors.ParameterError, match="spatial_range"):
        autocache.patch(model, "pab", spatial_range=0)
