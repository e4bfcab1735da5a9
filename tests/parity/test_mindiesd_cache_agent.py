"""dit_block and attention against MindIE-SD's own cache classes, step by step and bit for bit."""

from __future__ import annotations

import importlib
import itertools
import logging
import platform
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from tiny import build
from toy import SPEC, ToyDenoiser, added, executed

PEER = "mindiesd"
PUBLISHED = (
    sys.implementation.name == "cpython"
    and sys.version_info[:2] in ((3, 11), (3, 12))
    and (sys.platform, platform.machine()) == ("linux", "x86_64")
)
"""Whether the pinned version has a wheel for this interpreter."""


@pytest.fixture(scope="module")
def agents() -> Iterator[Any]:
    """MindIE-SD's cache module, out of its wheel and without Ascend's runtime."""
    found = sorted((Path(sys.prefix) / "peers").glob("mindiesd-*.whl"))
    if not found and not PUBLISHED:
        pytest.skip("MindIE-SD publishes no wheel for this Python on this platform")
    assert found, "make test downloads MindIE-SD's wheel into .venv/peers, and it is not there"
    before = {name for name in sys.modules if name.partition(".")[0] == PEER}
    assert not before, "MindIE-SD was imported by somebody else"
    for name in (PEER, f"{PEER}.utils", f"{PEER}.utils.logs", f"{PEER}.utils.logs.logging"):
        package: Any = types.ModuleType(name)
        package.__path__ = [str(found[-1] / name.replace(".", "/"))]
        # Its own logging writes files below the home directory.
        package.logger = logging.getLogger(PEER)
        sys.modules[name] = package
    try:
        yield importlib.import_module(f"{PEER}.cache_agent")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PEER]:
            del sys.modules[name]


def toy_by_agent(agent: Any, blocks: int, steps: int) -> tuple[list[float], list[str]]:
    """What each step adds and which blocks it runs, every block called through the agent."""
    model = ToyDenoiser(blocks)
    results = []
    for step in range(steps):
        start = hidden = torch.full((1, 2), 1000.0 * (step + 1), dtype=torch.float64)
        for block in model.blocks:
            hidden = agent.apply(block, hidden_states=hidden, step=step)
        results.append(float((hidden - start)[0, 0]))
    return results, executed(model, steps)


def toy_by_patch(strategy: str, blocks: int, steps: int, **given: Any):
    model = ToyDenoiser(blocks)
    with autocache.patched(model, strategy, spec=SPEC, **given):
        return added(model, steps), executed(model, steps)


SCHEDULES = [
    {"step_start": start, "step_interval": interval, "step_end": end}
    for start, interval, end in itertools.product((0, 1, 3, 9), (1, 2, 3), (1, 3, 6, 10000))
    if start <= end
]
RANGES = [(0, 4), (1, 3), (2, 4), (1, 2)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(map(str, s.values())))
def test_dit_block_as_upstream(agents, schedule):
    """With `mindie_compat` the same blocks run and the same is added, bugs and all."""
    for start, end in RANGES:
        given = {**schedule, "block_start": start, "block_end": end}
        config = agents.CacheConfig("dit_block_cache", 4, 8, **given)
        expected = toy_by_agent(agents.CacheAgent(config), 4, 8)
        assert toy_by_patch("dit_block", 4, 8, **given, mindie_compat=True) == expected


def test_dit_block_repairs_a_range_of_one_block(agents):
    """Upstream adds the raw input where the residual of a single block belongs; we do not."""
    given = {"step_start": 1, "step_interval": 2, "block_start": 1, "block_end": 2}
    config = agents.CacheConfig("dit_block_cache", 4, 4, **given)
    theirs, their_rows = toy_by_agent(agents.CacheAgent(config), 4, 4)
    ours, our_rows = toy_by_patch("dit_block", 4, 4, **given)
    assert our_rows == their_rows == ["CCCC", "CCCC", "CrCC", "CCCC"]
    # Step 2 runs three blocks of 3, 9 and 12, and adds the 4 that block 1 added at step 1.
    assert (theirs[2], ours[2]) == (2026.0, 28.0)


def test_dit_block_honours_step_end(agents):
    """Upstream goes on skipping after `step_end`; by default we compute from there on."""
    given = {"step_start": 0, "step_interval": 2, "step_end": 3, "block_start": 0, "block_end": 2}
    config = agents.CacheConfig("dit_block_cache", 2, 6, **given)
    _, theirs = toy_by_agent(agents.CacheAgent(config), 2, 6)
    _, ours = toy_by_patch("dit_block", 2, 6, **given)
    assert theirs == ["CC", "rr", "CC", "rr", "CC", "rr"]
    assert ours == ["CC", "rr", "CC", "rr", "CC", "CC"]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(map(str, s.values())))
def test_attention_on_scalars(agents, schedule):
    """The attention of each block returns what the same step of upstream's returned."""
    agent = agents.CacheAgent(agents.CacheConfig("attention_cache", 3, 8, **schedule))
    theirs = [agent.apply(lambda step=step: step) for step in range(8) for _ in range(3)]
    model: Any = ToyDenoiser(3)
    with autocache.patched(model, "attention", spec=SPEC, **schedule):
        added(model, 8)
    assert [block.attended[step] for step in range(8) for block in model.blocks] == theirs


class Block(nn.Module):
    """A block of a real model, called through the agent as MindIE's integrations do."""

    def __init__(self, block: nn.Module, agent: Any, encoder_first: bool) -> None:
        super().__init__()
        self.block, self.agent, self.encoder_first = block, agent, encoder_first

    def forward(self, hidden_states: Any, encoder_hidden_states: Any, *rest: Any, **kw: Any) -> Any:
        streams = {
            "hidden_states": hidden_states,
            "encoder_hidden_states": encoder_hidden_states,
        }
        if not self.encoder_first:
            return self.agent.apply(self.block, *rest, **streams, **kw)
        # The agent takes the latent stream to be returned first.
        hidden, encoder = self.agent.apply(
            lambda *a, **k: self.block(*a, **k)[::-1], **streams, **kw
        )
        return encoder, hidden


class Attention(nn.Module):
    def __init__(self, inner: nn.Module, agent: Any) -> None:
        super().__init__()
        self.inner, self.agent = inner, agent

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.agent.apply(self.inner, *args, **kwargs)


STEPS = 9


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any, scale: float) -> list[torch.Tensor]:
    """The prediction of each step, of a latent that moves."""
    made = []
    for step in range(STEPS):
        given = inputs((900 - 100 * step) * scale)
        given["hidden_states"] = given["hidden_states"] * (1 + 0.2 * step)
        made.append(model(**given)[0].clone())
    return made


MODELS = [
    pytest.param(
        "FluxTransformer2DModel",
        0.001,
        {"transformer_blocks": (0, 2), "single_transformer_blocks": (1, 3)},
        id="flux",
    ),
    pytest.param("WanTransformer3DModel", 1.0, {"blocks": (1, 3)}, id="wan"),
]


def ran(module: nn.Module) -> list[int]:
    counts = [0]
    module.register_forward_hook(lambda *_: counts.__setitem__(0, counts[0] + 1))
    return counts


@pytest.mark.parametrize(("name", "scale", "blocks"), MODELS)
def test_dit_block_on_a_model(agents, name, scale, blocks):
    """A tiny model's predictions are bit for bit those of its blocks called through agents."""
    schedule = {"step_start": 1, "step_interval": 3}
    theirs, inputs = build(name)
    plain = outputs(theirs, inputs, scale)
    for path, (start, end) in blocks.items():
        stack = theirs.get_submodule(path)
        assert isinstance(stack, nn.ModuleList)
        config = agents.CacheConfig(
            "dit_block_cache", len(stack), STEPS, block_start=start, block_end=end, **schedule
        )
        agent = agents.CacheAgent(config)
        counts = ran(stack[start])
        for index, block in enumerate(stack):
            stack[index] = Block(block, agent, encoder_first=name.startswith("Flux"))
    expected = outputs(theirs, inputs, scale)
    assert counts == [STEPS - 5]

    ours, inputs = build(name)
    with autocache.patched(ours, "dit_block", blocks=blocks, **schedule) as patch:
        actual = outputs(ours, inputs, scale)
        skipped = [step.blocks_skipped for step in patch.stats().steps]
    assert all(map(torch.equal, actual, expected))
    each = sum(end - start for start, end in blocks.values())
    assert skipped == [0, 0, each, each, 0, each, each, 0, each]
    assert [not torch.equal(a, p) for a, p in zip(actual, plain, strict=True)] == list(
        map(bool, skipped)
    )


@pytest.mark.parametrize(("name", "scale", "blocks"), MODELS)
def test_attention_on_a_model(agents, name, scale, blocks):
    """A tiny model's predictions are bit for bit those of its attention called through agents."""
    schedule = {"step_start": 1, "step_interval": 3, "step_end": 6}
    theirs, inputs = build(name)
    plain = outputs(theirs, inputs, scale)
    for path in blocks:
        stack: Any = theirs.get_submodule(path)
        agent = agents.CacheAgent(
            agents.CacheConfig("attention_cache", len(stack), STEPS, **schedule)
        )
        for block in stack:
            attention = "attn" if name.startswith("Flux") else "attn1"
            inner = block.get_submodule(attention)
            counts = ran(inner)
            setattr(block, attention, Attention(inner, agent))
    expected = outputs(theirs, inputs, scale)
    assert counts == [STEPS - 4]

    ours, inputs = build(name)
    with autocache.patched(ours, "attention", **schedule) as patch:
        actual = outputs(ours, inputs, scale)
        skipped = [step.attention_skipped > 0 for step in patch.stats().steps]
    assert all(map(torch.equal, actual, expected))
    assert skipped == [False, False, True, True, False, True, True, False, False]
    assert [not torch.equal(a, p) for a, p in zip(actual, plain, strict=True)] == skipped
