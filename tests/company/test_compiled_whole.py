"""The whole model compiled, in each way and order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiling import (
    TIMES,
    Counting,
    breaks,
    build,
    fresh_compiler,  # noqa: F401
    in_place,
    loop,
    trace,
    whole,
)
from torch import nn

import autocache
import tiny
from autocache.errors import PatchError

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"
CALLS = ("schedule", {"steps": (0, 2, 4), "total": 6})
AT_ROOT = 2
"""The breaks at the ends of the model, where the session begins and ends a call."""
ORDERS = [(whole, "compile"), (whole, "patch"), (in_place, "compile"), (in_place, "patch")]


def _generations(model: nn.Module, inputs: Any) -> torch.Tensor:
    return torch.cat([loop(model, inputs) for _ in range(3)])


def _check(
    name: str, strategy: Any, compiled: Callable[..., nn.Module], first: str
) -> tuple[Counting, Any]:
    """Results and records are those of the uncompiled model, and once every graph is there none is
    compiled again."""
    reference, inputs = build(name)
    expected = autocache.patch(reference, strategy)
    wanted = _generations(reference, inputs)
    model, _ = build(name)
    backend = Counting()
    called = compiled(model, backend) if first == "compile" else model
    patch = autocache.patch(called, strategy)
    if first == "patch":
        called = compiled(model, backend)
    assert torch.equal(_generations(called, inputs), wanted)
    assert trace(patch.stats()) == trace(expected.stats())
    assert patch.stats().attention.share < 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(loop(called, inputs), wanted[-len(TIMES) :])
    return backend, patch


@pytest.mark.parametrize(("compiled", "first"), ORDERS)
@pytest.mark.parametrize("strategy", ["attention", "fora"])
def test_inside_blocks(strategy: str, compiled: Any, first: str) -> None:
    """Two graphs, of the steps that compute and of those that fill in, where the plain model has
    one; they break at the ends of the model only."""
    backend, _ = _check(FLUX, strategy, compiled, first)
    assert backend.compiled == 2
    assert sum(breaks().values()) == AT_ROOT


@pytest.mark.parametrize(("compiled", "first"), ORDERS[::2])
def test_whole_calls(compiled: Any, first: str) -> None:
    """One graph, as of the plain model, which is not called in steps that are skipped."""
    backend, patch = _check(FLUX, CALLS, compiled, first)
    assert backend.compiled == 1
    ran = [step for step in patch.stats().steps if not step.whole]
    assert backend.calls == len(ran) < patch.stats().passes


@pytest.mark.parametrize(
    "strategy", ["dit_block", ("fbcache", {"threshold": 0.5, "warmup_steps": 1})], ids=str
)
def test_blocks(strategy: Any) -> None:
    """Blocks that may be skipped are pieces by themselves: a graph for each, and for what is
    between them, however many steps are run."""
    backend, _ = _check(WAN, strategy, whole, "compile")
    blocks = len(list(build(WAN)[0].get_submodule("blocks").children()))
    assert 1 < backend.compiled <= 4 * blocks


@pytest.mark.parametrize("compiled", [whole, in_place])
@pytest.mark.parametrize("strategy", ["attention", "dit_block", CALLS], ids=str)
def test_unpatched_is_plain(strategy: Any, compiled: Any) -> None:
    """patch, run, unpatch, run: what runs is the plain model, all of it compiled."""
    model, inputs = build(WAN)
    expected = loop(model, inputs)
    called = compiled(model, backend := Counting())
    assert torch.equal(loop(called, inputs), expected)
    assert backend.compiled == 1
    for _ in range(2):
        with autocache.patch(called, strategy) as patch:
            assert not torch.equal(loop(called, inputs), expected)
            assert patch.stats().attention.share < 1
        before = backend.calls
        assert torch.equal(loop(called, inputs), expected)
        assert backend.calls >= before + len(TIMES)


def test_compiled_in_place_after_the_patch() -> None:
    """The first call after that is computed; from the next generation on all is as uncompiled."""
    reference, inputs = build(FLUX)
    autocache.patch(reference, CALLS)
    wanted = loop(reference, inputs)
    model, _ = build(FLUX)
    patch = autocache.patch(model, CALLS)
    in_place(model, backend := Counting())
    first = loop(model, inputs)
    assert torch.equal(first[0], wanted[0])
    before = backend.calls
    assert torch.equal(loop(model, inputs), wanted)
    assert (
        backend.calls - before == sum(not s.whole for s in patch.stats().steps[-len(TIMES) :]) == 3
    )


def test_whole_calls_need_the_compiled_model() -> None:
    """What torch.compile made after the patch cannot leave calls out: it says so, and how to."""
    model, inputs = build(WAN)
    autocache.patch(model, CALLS)
    called = whole(model, Counting())
    with pytest.raises(PatchError, match="compile it in place"):
        loop(called, inputs)


@pytest.mark.parametrize("strategy", ["attention", "dit_block"])
def test_inductor(strategy: str) -> None:
    """With torch's own compiler: the same steps, and results as near as its kernels come."""
    options = {"num_layers": 1, "num_single_layers": 1}
    reference, inputs = tiny.build(FLUX, **options)
    expected = autocache.patch(reference, strategy)
    wanted = loop(reference, inputs)
    model, _ = tiny.build(FLUX, **options)
    patch = autocache.patch(model, strategy)
    model.compile_repeated_blocks(fullgraph=True)  # type: ignore[operator]
    torch.testing.assert_close(loop(model, inputs), wanted, rtol=1e-4, atol=1e-4)
    assert trace(patch.stats()) == trace(expected.stats())
    assert patch.stats().attention.share < 1
    assert breaks() == {}
