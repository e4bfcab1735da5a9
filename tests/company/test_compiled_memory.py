"""Compiled code that writes its results to where the last ones are, as CUDA graphs do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiling import (
    Counting,
    Overwriting,
    blocks,
    build,
    fresh_compiler,  # noqa: F401
    in_place,
    loop,
    trace,
    whole,
)

import autocache
from autocache.runtime.compiled import reuses_memory
from devices import DEVICE

FLUX, WAN, UNET = "FluxTransformer2DModel", "WanTransformer3DModel", "UNet2DConditionModel"
HOLDING = [
    (FLUX, "adacache"),
    (FLUX, "attention"),
    (FLUX, ("dicache", {"threshold": 5.0, "warmup_steps": 1, "last_steps": 0})),
    (FLUX, "dit_block"),
    (FLUX, "fora"),
    (WAN, ("customcache", {"coefficients": (1.0, 0.0)})),
    (WAN, ("dbcache", {"fn": 1, "threshold": 1.0, "warmup_steps": 1})),
    (WAN, ("dbcache", {"fn": 1, "threshold": 0.9, "warmup_steps": 1, "order": 1})),
    (WAN, ("fbcache", {"threshold": 0.5, "warmup_steps": 1})),
    (WAN, ("taylorseer", {"scope": "stack", "interval": 2})),
    (WAN, "fastercache"),
    (WAN, "seacache"),
    (WAN, "pab"),
    (UNET, "deepcache"),
]
"""Every kind of thing that is held: inputs of spans, outputs of modules, probes, features."""
OUTPUTS = ["adastep", "auto", ("schedule", {"steps": (0, 2, 4), "total": 6})]
"""Strategies that keep what the denoiser returned."""


def _name(value: Any) -> str:
    return value if isinstance(value, str) else value[0]


def _nothing() -> None:
    pass


def _same(name: str, strategy: Any, compiled: Any) -> Any:
    """Compiled, the strategy does what it does uncompiled, and skips something."""
    reference, inputs = build(name)
    expected = autocache.patch(reference, strategy)
    wanted = torch.cat([loop(reference, inputs) for _ in range(2)])
    model, _ = build(name)
    called = compiled(model, backend := Overwriting())
    patch = autocache.patch(called, strategy)
    before = _nothing if compiled is blocks else backend.next_call
    result = torch.cat([loop(called, inputs, before=before) for _ in range(2)])
    assert torch.equal(result, wanted)
    assert trace(patch.stats()) == trace(expected.stats())
    assert patch.stats().attention.share < 1
    assert backend.calls > 0
    return patch


def test_the_backend_overwrites() -> None:
    """What the backend returned holds something else after the next call, unnoticed by torch."""
    layer = torch.compile(torch.nn.Linear(3, 3), backend=Overwriting())
    with torch.no_grad():
        first = layer(torch.ones(1, 3))
        before, version = first.clone(), first._version
        assert layer(torch.zeros(1, 3)) is first
    assert not torch.equal(first, before)
    assert first._version == version


@pytest.mark.parametrize(("name", "strategy"), HOLDING, ids=_name)
def test_blocks(name: str, strategy: Any) -> None:
    """Whatever is held over compiled blocks is what it was."""
    _same(name, strategy, blocks)


@pytest.mark.parametrize("compiled", [whole, in_place])
@pytest.mark.parametrize("strategy", [*OUTPUTS, "attention", "dit_block"], ids=_name)
def test_whole_models(strategy: Any, compiled: Any) -> None:
    """The same where the whole model is compiled, whose output is kept or from whose pieces."""
    _same(FLUX, strategy, compiled)


@pytest.mark.parametrize("name", [FLUX, WAN])
def test_unchanged_inputs_are_not_taken_for_granted(name: str) -> None:
    """The same tensor with something else in it is not the same: invariant computes."""
    plain, inputs = build(name)
    expected = loop(plain, inputs)
    model, _ = build(name)
    patch = autocache.patch(model, "invariant")
    called = whole(model, backend := Overwriting())
    for _ in range(2):
        assert torch.equal(loop(called, inputs, before=backend.next_call), expected)
    assert {done for step in patch.stats().steps for done in step.sites.values()} <= {"computed"}


def _copies(model: Any, inputs: Any) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loop(model, inputs)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::clone")


@pytest.mark.parametrize("strategy", ["attention", "fora"])
def test_nothing_is_copied_in_eager_mode(strategy: str) -> None:
    """Uncompiled, no copy is made for it; compiled so that memory may be reused, some are."""
    plain, inputs = build(FLUX)
    usual = _copies(plain, inputs)
    autocache.patch(plain, strategy)
    loop(plain, inputs)
    assert _copies(plain, inputs) <= usual
    model, _ = build(FLUX)
    autocache.patch(blocks(model, Counting()), strategy)
    loop(model, inputs)
    assert _copies(model, inputs) > usual


@pytest.mark.parametrize(
    ("options", "reuses"),
    [
        ({}, False),
        ({"mode": "reduce-overhead"}, True),
        ({"mode": "max-autotune"}, True),
        ({"mode": "max-autotune-no-cudagraphs"}, False),
        ({"options": {"triton.cudagraphs": True}}, True),
        ({"backend": "cudagraphs"}, True),
        ({"backend": Counting()}, True),
    ],
    ids=lambda value: str(value).partition(" object at")[0],
)
def test_who_reuses_memory(options: dict[str, Any], reuses: bool) -> None:
    """Of torch's own backend it is known; of any other it is taken for granted."""
    module = torch.nn.Linear(2, 2)
    module.compile(**options)
    assert reuses_memory(vars(module)["_compiled_call_impl"]) is reuses
    assert reuses_memory(torch.compile(torch.nn.Linear(2, 2), **options)) is reuses


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs are made on CUDA devices only")
@pytest.mark.parametrize(
    ("name", "strategy"), [*HOLDING, *((FLUX, strategy) for strategy in OUTPUTS)], ids=_name
)
def test_cuda_graphs(name: str, strategy: Any) -> None:
    """The same under mode="reduce-overhead" itself, as near as its kernels come to torch's."""
    reference, inputs = build(name)
    autocache.patch(reference, strategy)
    wanted = loop(reference, inputs)
    model, _ = build(name)
    patch = autocache.patch(model, strategy)
    model.compile_repeated_blocks(mode="reduce-overhead", fullgraph=True)  # type: ignore
    for _ in range(4):  # two to warm up and record, and two to replay
        torch.testing.assert_close(loop(model, inputs), wanted, rtol=1e-3, atol=1e-3)
    assert patch.stats().attention.share < 1
