"""Compiled models: the same results, the same skips, no compilation per block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny

TIMES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
STRATEGIES = ("teacache", "dit_block", "attention")
CASES = ("FluxTransformer2DModel", "WanTransformer3DModel")


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.compiled = 0
        self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, example: Any) -> Any:
        self.compiled += 1

        def called(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return called


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _loop(model: nn.Module, inputs: Any, times: list[float] = TIMES) -> torch.Tensor:
    scale = 1.0 if hasattr(model, "single_transformer_blocks") else 1000.0
    with torch.no_grad():
        return torch.stack([model(**inputs(time * scale))[0] for time in times])


def _uncompiled(name: str, strategy: str) -> tuple[torch.Tensor, Any]:
    model, inputs = tiny.build(name)
    patch = autocache.patch(model, tiny.choice(strategy))
    return torch.cat([_loop(model, inputs) for _ in range(2)]), patch.stats()


def _check(called: nn.Module, inputs: Any, name: str, strategy: str, patch: Any) -> None:
    expected, reference = _uncompiled(name, strategy)
    result = torch.cat([_loop(called, inputs) for _ in range(2)])
    assert torch.equal(result, expected)
    stats = patch.stats()
    assert (stats.blocks, stats.attention) == (reference.blocks, reference.attention)
    assert stats.attention.share < 1
    assert stats.generations == 2
    assert [s.action for s in stats.steps] == [s.action for s in reference.steps]


@pytest.mark.parametrize("first", ["compile", "patch"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_repeated_blocks(name: str, strategy: str, first: str) -> None:
    """compile_repeated_blocks, before or after patching, changes neither results nor skips."""
    backend = Counting()
    options = {"backend": backend, "fullgraph": True}
    model, inputs = tiny.build(name)
    if first == "compile":
        model.compile_repeated_blocks(**options)
    patch = autocache.patch(model, tiny.choice(strategy))
    if first == "patch":
        model.compile_repeated_blocks(**options)
    _check(model, inputs, name, strategy, patch)
    assert backend.calls > 0
    if strategy != "attention":
        assert backend.calls == patch.stats().blocks.run


@pytest.mark.parametrize(("name", "first"), [*zip(CASES, ["compile", "patch"], strict=True)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whole_model(name: str, strategy: str, first: str) -> None:
    """torch.compile of the whole model, before or after patching, changes nothing either."""
    backend = Counting()
    model, inputs = tiny.build(name)
    compiled = torch.compile(model, backend=backend) if first == "compile" else None
    patch = autocache.patch(compiled if compiled is not None else model, tiny.choice(strategy))
    if compiled is None:
        compiled = torch.compile(model, backend=backend)
    assert autocache.is_patched(compiled)
    assert patch.denoisers == [model]
    _check(compiled, inputs, name, strategy, patch)
    assert backend.calls > 0
    # Everything is compiled by now, so that no tracing is among what is counted.
    before = patch.stats().attention.run
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        _loop(compiled, inputs)
    executed = {event.key: event.count for event in profile.key_averages()}
    attended = patch.stats().attention.run - before
    assert executed["aten::scaled_dot_product_attention"] == attended
    autocache.unpatch(compiled)
    assert not autocache.is_patched(model)
    plain, _ = tiny.build(name)
    assert torch.equal(_loop(compiled, inputs), _loop(plain, inputs))


def _compilations(count: int, first: str, **patch: Any) -> int:
    """How many graphs a Flux of so many double and single blocks compiles."""
    torch.compiler.reset()
    backend = Counting()
    model, inputs = tiny.build("FluxTransformer2DModel", num_layers=count, num_single_layers=count)
    if first == "compile":
        model.compile_repeated_blocks(backend=backend, fullgraph=True)
    if patch:
        autocache.patch(model, **patch)
    if first == "patch":
        model.compile_repeated_blocks(backend=backend, fullgraph=True)
    _loop(model, inputs)
    blocks = 2 * count * len(TIMES)
    assert backend.calls == (autocache.stats(model).blocks.run if patch else blocks)
    assert (backend.calls < blocks) is bool(patch)
    return backend.compiled


@pytest.mark.parametrize("first", ["compile", "patch"])
@pytest.mark.parametrize("strategy", ["teacache", "dit_block"])
def test_compilations_do_not_grow_with_the_blocks(strategy: str, first: str) -> None:
    """Ten blocks compile as often as three: just as often as without a patch."""
    whole = {"strategy": tiny.choice(strategy)} | (
        {"block_start": 0} if strategy == "dit_block" else {}
    )
    plain = _compilations(3, first)
    assert _compilations(3, first, **whole) == _compilations(10, first, **whole) == plain


def test_spared_blocks_compile_once_more() -> None:
    """Blocks outside a skipped range keep their class, and compile once for all of them."""
    few, many = (_compilations(n, "patch", strategy="dit_block") for n in (6, 9))
    assert few == many <= 2 * _compilations(6, "patch")


def test_a_compiled_denoiser_in_a_pipeline() -> None:
    """A pipeline that holds a compiled transformer is patched, skips and is unpatched."""
    reference = make("wan")
    autocache.patch(reference, "dit_block")
    expected = run(reference)
    pipe = make("wan")
    for part in ("transformer", "transformer_2"):
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    patch = autocache.patch(pipe, "dit_block")
    assert torch.equal(run(pipe), expected)
    assert patch.stats().blocks == autocache.stats(reference).blocks
    assert patch.stats().blocks.share < 1
    autocache.unpatch(pipe)
    assert not autocache.is_patched(pipe)
