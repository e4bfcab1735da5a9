"""Guidance branches and experts keep apart."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import counted, make, run
from torch import nn

import autocache
import tiny

TIMES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
STRATEGIES = ("teacache", "dit_block", "attention")
CASES = ("FluxTransformer2DModel", "WanTransformer3DModel", "QwenImageTransformer2DModel")


def _called(model: nn.Module, given: dict[str, Any], name: str | None) -> torch.Tensor:
    with torch.no_grad(), model.cache_context(name) if name else nullcontext():
        return model(**given)[0]


def _calls(inputs: Any, step: int, time: float, unlike: float) -> dict[str, Any]:
    """What a branch gives the model at a step; the latents move from step to step."""
    scale = 1.0 if inputs(0.5)["hidden_states"].shape[-1] == 4 else 1000.0
    given = inputs(time * scale)
    given["hidden_states"] = given["hidden_states"] * (1.0 + 0.1 * step * unlike)
    given["encoder_hidden_states"] = given["encoder_hidden_states"] * unlike
    return given


@pytest.mark.parametrize("names", [("cond", "uncond"), (None, None)], ids=["named", "nth"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model_name", CASES)
def test_each_branch_is_as_if_alone(model_name: str, strategy: str, names: tuple) -> None:
    """Two branches on one patched model equal each on a patched model of its own."""
    model, inputs = tiny.build(model_name)
    alone = [copy.deepcopy(model), copy.deepcopy(model)]
    patches = [autocache.patch(m, tiny.choice(strategy)) for m in (model, *alone)]
    for step, time in enumerate(TIMES):
        for own, name, unlike in zip(alone, names, (1.0, -2.0), strict=True):
            given = _calls(inputs, step, time, unlike)
            together = _called(model, given, name)
            assert torch.equal(together, _called(own, given, name)), (step, name)
    both, first, second = (patch.stats() for patch in patches)
    assert both.passes == 16
    assert both.attention.run == first.attention.run + second.attention.run < both.attention.total
    assert both.blocks.run == first.blocks.run + second.blocks.run
    assert [p.stats().generations for p in patches] == [1, 1, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_branch_alone_decides_for_itself(strategy: str) -> None:
    """A branch that comes in late starts with a computed step, whatever the other one does."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    patch = autocache.patch(model, tiny.choice(strategy))
    for step, time in enumerate(TIMES):
        _called(model, _calls(inputs, step, time, 1.0), "cond")
        if step >= 4:
            _called(model, _calls(inputs, step, time, -2.0), "uncond")
    first = {s.branch: s for s in reversed(patch.stats().steps)}
    assert first["cond"].step == 0
    assert (first["uncond"].step, first["uncond"].action) == (4, "computed")


def test_experts_have_their_own_state_on_one_clock() -> None:
    """Steps count over both experts of Wan, and the second begins with a computed step."""
    pipe = make("wan")
    fixed = {"step_start": 2, "step_interval": 2}
    patch = autocache.patch(pipe, "dit_block", **fixed, block_start=0, block_end=3)
    assert patch.denoisers == [pipe.transformer, pipe.transformer_2]
    ran: list[tuple[int, int]] = []
    for number, model in enumerate(patch.denoisers):
        model.blocks[2].ffn.register_forward_hook(
            lambda *_, number=number: ran.append((number, pipe.scheduler.step_index or 0))
        )
    run(pipe, steps=10)
    # Expert 0 runs steps 0..4, expert 1 runs 5..9. Steps 3, 5, 7, 9 may skip; 5 has no residual.
    assert ran == [(0, 0), (0, 1), (0, 2), (0, 4), (1, 5), (1, 6), (1, 8)]
    steps = [s.step for s in patch.stats().steps]
    assert sorted(steps) == list(range(10))
    assert patch.stats().generations == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_expert_counts_the_same_whether_or_not_the_other_is_patched(strategy: str) -> None:
    """What the second expert skips does not depend on the first."""
    pipe = make("wan")
    autocache.patch(pipe, tiny.choice(strategy))
    with counted(pipe) as both:
        run(pipe, steps=10, guided=True)
    pipe = make("wan")
    autocache.patch(pipe, tiny.choice(strategy))
    autocache.unpatch(pipe.transformer)
    assert autocache.is_patched(pipe)
    assert not autocache.is_patched(pipe.transformer)
    with counted(pipe) as second:
        run(pipe, steps=10, guided=True)
    assert second["attention"][1] == both["attention"][1] < 3 * 10
    assert second["block"][1] == both["block"][1]
    assert second["block"][0] == 3 * 10 >= both["block"][0]


def test_the_same_module_twice_is_one_denoiser() -> None:
    """A pipeline whose two experts are one module is patched once and skips."""
    pipe = make("wan")
    pipe.transformer_2 = pipe.transformer
    patch = autocache.patch(pipe, "dit_block")
    assert len(patch.denoisers) == 1
    run(pipe, steps=10)
    assert patch.stats().passes == 10
    assert patch.stats().blocks.share < 0.8
