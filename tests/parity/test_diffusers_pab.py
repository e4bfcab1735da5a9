"""Pyramid Attention Broadcast as diffusers implements it, step by step and bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_pyramid_attention_broadcast
from pipelines import tiny_pipelines
from torch import nn

import autocache
from tiny import build

STEPS = 12


def times() -> list[float]:
    return [960.0 - 80 * step for step in range(STEPS)]


@torch.no_grad()
def outputs(
    model: Any, inputs: Any, clock: dict[str, float], branches: tuple[float, ...] = (1.0,)
) -> list[list[torch.Tensor]]:
    """The predictions of each guidance branch, of a latent that moves; `clock` tells the time."""
    scale = 0.001 if type(model).__name__.startswith("Flux") else 1.0
    made: list[list[torch.Tensor]] = [[] for _ in branches]
    for step, time in enumerate(times()):
        clock["now"] = time
        for own, unlike in zip(made, branches, strict=True):
            given = inputs(time * scale)
            given["hidden_states"] = given["hidden_states"] * (1 + 0.1 * step)
            if "encoder_hidden_states" in given:
                given["encoder_hidden_states"] = given["encoder_hidden_states"] * unlike
            own.append(model(**given)[0].clone())
    return made


def attending(model: nn.Module, ending: str) -> list[int]:
    """Counts, per denoiser call, the attentions of that name that really ran, by their queries."""
    counts: list[int] = []
    model.register_forward_pre_hook(lambda *_: counts.append(0))
    for name, module in model.named_modules():
        if name.endswith(f"{ending}.to_q") and "blocks" in name:
            module.register_forward_hook(lambda *_: counts.__setitem__(-1, counts[-1] + 1))
    return counts


def broadcast(model: Any, clock: dict[str, float], **config: Any) -> None:
    apply_pyramid_attention_broadcast(
        model,
        PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: clock["now"], **config),
    )


CASES = [
    pytest.param("CogVideoXTransformer3DModel", "attn1", 2, (100, 850), id="cogvideox-published"),
    pytest.param("CogVideoXTransformer3DModel", "attn1", 3, (100, 800), id="cogvideox-3"),
    pytest.param("FluxTransformer2DModel", "attn", 2, (100, 800), id="flux-2"),
    pytest.param("FluxTransformer2DModel", "attn", 5, (0, 1000), id="flux-everywhere"),
    # 320 and 800 are timesteps of the loop: the bounds are excluded.
    pytest.param("DiTTransformer2DModel", "attn1", 4, (320, 800), id="dit-bounds"),
]


@pytest.mark.parametrize(("name", "ending", "reach", "window"), CASES)
def test_same_steps_and_same_predictions(name, ending, reach, window):
    """One branch, or guidance in one batch: the same attentions run, the predictions are equal."""
    clock = {"now": 0.0}
    theirs, inputs = build(name)
    counted = attending(theirs, ending)
    broadcast(
        theirs,
        clock,
        spatial_attention_block_skip_range=reach,
        spatial_attention_timestep_skip_range=window,
    )
    expected = outputs(theirs, inputs, clock)[0]

    ours, _ = build(name)
    plain = outputs(ours, inputs, clock)[0]
    with autocache.patched(ours, "pab", spatial_range=reach, spatial_window=window) as patch:
        actual = outputs(ours, inputs, clock)[0]
        steps = patch.stats().steps
    assert all(map(torch.equal, actual, expected))
    every = max(counted)
    assert [every - step.attention_skipped for step in steps] == counted
    reused = [step.action == "reused" for step in steps]
    assert 2 < sum(reused) < STEPS - 2
    assert [not torch.equal(a, p) for a, p in zip(actual, plain, strict=True)] == reused


def test_each_kind_at_its_own_pace():
    """Self and cross attention of Wan, each with its range and window."""
    clock = {"now": 0.0}
    theirs, inputs = build("WanTransformer3DModel")
    own, cross = attending(theirs, "attn1"), attending(theirs, "attn2")
    broadcast(
        theirs,
        clock,
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 800),
        cross_attention_block_skip_range=5,
        cross_attention_timestep_skip_range=(200, 900),
    )
    expected = outputs(theirs, inputs, clock)[0]

    ours, _ = build("WanTransformer3DModel")
    options: dict[str, Any] = {"spatial_range": 2, "cross_range": 5, "cross_window": (200, 900)}
    with autocache.patched(ours, "pab", **options) as patch:
        actual = outputs(ours, inputs, clock)[0]
        sites = [step.sites for step in patch.stats().steps]
    assert all(map(torch.equal, actual, expected))

    def computed(attention: str) -> list[int]:
        names = [f"blocks.{n}.{attention}" for n in range(3)]
        return [sum(site.get(name, "computed") == "computed" for name in names) for site in sites]

    assert computed("attn1") == own
    assert computed("attn2") == cross
    assert own != cross


def test_sequential_guidance_branches_stay_apart():
    """diffusers counts the calls of both branches together and mixes them up; ours do not mix."""
    unlike, clock = (1.0, -2.0), {"now": 0.0}
    options: dict[str, Any] = {"spatial_range": 2, "cross_range": 1}

    def alone(branch: float) -> list[torch.Tensor]:
        model, inputs = build("WanTransformer3DModel")
        with autocache.patched(model, "pab", **options):
            return outputs(model, inputs, clock, (branch,))[0]

    ours, inputs = build("WanTransformer3DModel")
    with autocache.patched(ours, "pab", **options):
        together = outputs(ours, inputs, clock, unlike)
    for branch, made in zip(unlike, together, strict=True):
        assert all(map(torch.equal, made, alone(branch)))

    theirs, _ = build("WanTransformer3DModel")
    broadcast(theirs, clock, spatial_attention_block_skip_range=2)
    conditional, other = outputs(theirs, inputs, clock, unlike)
    # Every second call reuses, which is always the second branch: it gets the first one's.
    assert not any(map(torch.equal, other[3:8], together[1][3:8]))
    theirs, _ = build("WanTransformer3DModel")
    assert all(map(torch.equal, conditional, outputs(theirs, inputs, clock)[0]))


@pytest.mark.parametrize(("name", "guided"), [("cogvideox", True), ("flux", False)])
def test_in_a_pipeline(name, guided):
    """A whole generation ends in the same latents, bit for bit."""
    theirs = tiny_pipelines.make(name)
    plain = tiny_pipelines.run(theirs, steps=STEPS, guided=guided)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=3,
        spatial_attention_timestep_skip_range=(150, 900),
        current_timestep_callback=lambda: theirs.current_timestep,
    )
    apply_pyramid_attention_broadcast(theirs.transformer, config)
    expected = tiny_pipelines.run(theirs, steps=STEPS, guided=guided)

    ours = tiny_pipelines.make(name)
    with autocache.patched(ours, "pab", spatial_range=3, spatial_window=(150, 900)) as patch:
        actual = tiny_pipelines.run(ours, steps=STEPS, guided=guided)
        assert 0.3 < patch.stats().attention.share < 0.9
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, plain)
