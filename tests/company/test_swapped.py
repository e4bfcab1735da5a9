"""Another model in a patched pipeline, and calls of a patched model outside any generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import counted, make, run
from torch import nn

import autocache
import tiny

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"


@pytest.mark.parametrize("strategy", ["fewer_steps", "dit_block"])
def test_a_patch_stays_with_the_model_that_was_taken_out(strategy: str) -> None:
    """The pipeline is a plain one with another model in it, and patched again with the old one."""
    pipe = make("flux")
    plain = run(pipe)
    patch = autocache.patch(pipe, strategy)
    cached = run(pipe)
    assert not torch.equal(cached, plain)
    patched, pipe.transformer = pipe.transformer, tiny.build(FLUX)[0]
    assert not autocache.is_patched(pipe)
    assert torch.equal(run(pipe), plain)
    assert patch.stats().generations == 1
    pipe.transformer = patched
    assert torch.equal(run(pipe), cached)
    assert patch.stats().generations == 2


class Wrapper(nn.Module):
    """As data parallelism does it: the model is inside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_a_model_put_into_a_wrapper_is_still_the_pipelines() -> None:
    """The scheduler is heard as before: every generation skips the same."""
    pipe = make("flux")
    patch = autocache.patch(pipe, "dit_block")
    expected = run(pipe)
    pipe.transformer = Wrapper(pipe.transformer)
    with counted(pipe) as counts:
        assert torch.equal(run(pipe), expected)
    assert 0 < counts["block"].total() < 8 * 6
    assert patch.stats().generations == 2
    assert {step.step for step in patch.stats().steps} == set(range(8))


@pytest.mark.parametrize(("name", "scale"), [(FLUX, 1.0), (WAN, 1000.0)])
def test_a_lone_call_before_ones_own_loop(name: str, scale: float) -> None:
    """A warm-up at a late time does not make the loop after it begin with what it kept."""

    def loop(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(**inputs(scale * time))[0] for time in (1.0, 0.75, 0.5, 0.25)]

    fresh, inputs = tiny.build(name)
    with autocache.patched(fresh, "dit_block", step_start=0, step_interval=2) as patch:
        expected = loop(fresh, inputs)
        assert patch.stats().blocks.share == 0.5
    model, inputs = tiny.build(name)
    other = tiny.build(name, seed=3)[1]
    patch = autocache.patch(model, "dit_block", step_start=0, step_interval=2)
    with torch.no_grad():
        model(**other(scale * 0.25))
    for _ in range(2):
        for made, wanted in zip(loop(model, inputs), expected, strict=True):
            assert torch.equal(made, wanted)
    assert patch.stats().generations == 3
