"""FORA's steps, what it is the same as, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.strategy.custom import Custom
from autocache.when import Interval
from autocache.where import Submodules
from tiny import build
from toy import SPEC, ToyDenoiser, added


@torch.no_grad()
def outputs(model: Any, inputs: Any, steps: int, loop: Any = None) -> list[torch.Tensor]:
    """The prediction of each step, of a latent that moves."""
    made = []
    if loop:
        loop.set_timesteps()
    for step in range(steps):
        given = inputs(950.0 - 50 * step)
        given["hidden_states"] = given["hidden_states"] * (1 + 0.1 * step)
        made.append(model(**given)[0].clone())
        if loop:
            loop.step()
    return made


@pytest.mark.parametrize("interval", [1, 2, 3, 4])
def test_every_interval_th_step_is_computed(interval):
    """Step i returns what was computed at the last multiple of the interval."""
    model: Any = ToyDenoiser(3)
    with autocache.patched(model, "fora", spec=SPEC, interval=interval):
        added(model, 11)
    for block in model.blocks:
        assert block.attended == [i - i % interval for i in range(11)]


class Kept(nn.Module):
    """A module by upstream's rule, which counts the steps down from the last."""

    def __init__(self, inner: nn.Module, interval: int, steps: int) -> None:
        super().__init__()
        self.inner, self.interval, self.step, self.steps = inner, interval, steps, steps
        self.cached: Any = None
        self.computed: list[int] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.step -= 1
        if self.step == self.steps - 1 or self.step % self.interval == 0:
            self.cached = self.inner(*args, **kwargs)
            self.computed.append(self.steps - 1 - self.step)
        return self.cached


class Loop:
    """As much of a pipeline and its scheduler as it takes to announce the number of steps."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.components = {"transformer": model}
        self.scheduler = self
        self.timesteps = torch.arange(950, 950 - 50 * steps, -50)

    def set_timesteps(self) -> None:
        pass

    def step(self) -> tuple:
        return (None,)


@pytest.mark.parametrize(("steps", "interval"), [(10, 3), (11, 3), (12, 3), (9, 4)])
@pytest.mark.parametrize("countdown", [False, True])
def test_blocks_by_hand(steps, interval, countdown):
    """Bit for bit a model whose attention and feed-forward keep their outputs by hand: the gates
    are those of the present step. `countdown` computes upstream's steps, by default i mod N."""
    theirs, inputs = build("DiTTransformer2DModel")
    plain = outputs(theirs, inputs, steps)
    kept = []
    for block in theirs.transformer_blocks:
        for name in ("attn1", "ff"):
            one = Kept(getattr(block, name), interval, steps)
            if not countdown:
                # Begin the count so that the first step is a multiple.
                one.step = one.steps = -(-steps // interval) * interval + 1
            setattr(block, name, one)
            kept.append(one)
    expected = outputs(theirs, inputs, steps)
    ours, _ = build("DiTTransformer2DModel")
    loop = Loop(ours, steps)
    with autocache.patched(loop, "fora", interval=interval, countdown=countdown) as patch:
        actual = outputs(ours, inputs, steps, loop)
        computed = [step.step for step in patch.stats().steps if step.action == "computed"]
    assert all(map(torch.equal, actual, expected))
    assert computed == kept[0].computed
    if not countdown:
        assert computed == list(range(0, steps, interval))
    assert len(computed) < steps - 3
    equal = [i for i in range(steps) if torch.equal(actual[i], plain[i])]
    assert equal == computed


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "WanTransformer3DModel"])
def test_the_same_as_attention_and_feed_forward_on_one_schedule(name):
    """The attention strategy over everything, and a feed-forward cache beside it."""
    kinds = ("self", "joint", "cross", "temporal")
    schedule = {"step_start": 0, "step_interval": 3, "step_end": 9}
    feed_forward = Custom.create(
        when=Interval(3, start=0, end=9), where=Submodules(feed_forward=True)
    )
    made = []
    for strategy in ("fora", [("attention", {"kinds": kinds, **schedule}), feed_forward]):
        model, inputs = build(name)
        with autocache.patched(model, strategy) as patch:
            made.append(outputs(model, inputs, 10))
            made.append([set(step.sites) for step in patch.stats().steps])
    assert all(map(torch.equal, made[0], made[2]))
    assert made[1][:9] == made[3][:9]


def test_memory():
    """Two tensors for each block; three where a block has cross attention too."""
    for name, s, each in (
        ("DiTTransformer2DModel", 2 * 16 * 8 * 4, 2),
        ("WanTransformer3DModel", (2 * 4 * 4) * 24 * 4, 3),
    ):
        model, inputs = build(name)
        with autocache.patched(model, "fora") as patch:
            outputs(model, inputs, 7)
            assert patch.stats().bytes_peak == each * 3 * s
