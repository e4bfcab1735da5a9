"""Blocks compiled one by one: every strategy skips what it does without, at no graph break."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from compiling import (
    TIMES,
    Counting,
    blocks,
    breaks,
    build,
    fresh_compiler,  # noqa: F401
    loop,
    trace,
)
from torch._dynamo.utils import counters

import autocache
import tiny

FLUX, WAN, UNET = "FluxTransformer2DModel", "WanTransformer3DModel", "UNet2DConditionModel"
FILLED = {"attention": 2, "fora": 2, "taylorseer": 2, "fastercache": 2, "pab": 3}
"""For strategies that fill in inside the blocks, the graphs of each of the plain model's: one for
steps that compute and one for steps that fill in, and for each mixture of kinds that there is."""
NOT_ALONE = {"fewer_steps", "magcache"}
"""Strategies that want a pipeline or a table."""
EVERY = sorted({s.name for s in autocache.strategies()} - NOT_ALONE)
APPLYING = [
    (name, strategy)
    for name, strategy in tiny.pairs(EVERY)
    if name in (FLUX, WAN, UNET) and strategy not in ("invariant",)
]


def _reference(name: str, strategy: Any) -> tuple[torch.Tensor, Any]:
    model, inputs = build(name)
    patch = autocache.patch(model, strategy)
    return torch.cat([loop(model, inputs) for _ in range(2)]), patch.stats()


@functools.cache
def _plain(name: str) -> int:
    """The graphs that the model compiles without a patch."""
    backend = Counting()
    model, inputs = build(name)
    loop(blocks(model, backend), inputs)
    torch.compiler.reset()
    counters.clear()
    return backend.compiled


@pytest.mark.parametrize(
    ("name", "strategy", "first"),
    [(*pair, ("compile", "patch")[nth % 2]) for nth, pair in enumerate(APPLYING)],
)
def test_every_strategy(name: str, strategy: str, first: str) -> None:
    """Compiled before or after the patch, results and records are those of the uncompiled model, no
    graph breaks, and once all graphs are there none is compiled again."""
    plain, backend = _plain(name), Counting()
    expected, reference = _reference(name, tiny.choice(strategy))
    model, inputs = build(name)
    # Three graphs of each of a UNet's three widths are one more than torch allows by itself.
    with torch._dynamo.config.patch(recompile_limit=16):
        if first == "compile":
            blocks(model, backend)
        patch = autocache.patch(model, tiny.choice(strategy))
        if first == "patch":
            blocks(model, backend)
        assert torch.equal(torch.cat([loop(model, inputs) for _ in range(2)]), expected)
        assert trace(patch.stats()) == trace(reference)
        assert (patch.stats().attention, patch.stats().blocks) == (
            reference.attention,
            reference.blocks,
        )
        assert breaks() == {}
        # adacache looks into one block, which is then another one than its like.
        assert backend.compiled <= plain * FILLED.get(strategy, 1) + (strategy == "adacache")
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.equal(loop(model, inputs), expected[: len(TIMES)])
