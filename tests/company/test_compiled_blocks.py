"""Blocks compiled one by one, with `fullgraph=True`, in every order of things."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
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

import autocache
import tiny

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"


def _reference(name: str, strategy: Any) -> tuple[torch.Tensor, Any]:
    model, inputs = build(name)
    patch = autocache.patch(model, strategy)
    return torch.cat([loop(model, inputs) for _ in range(2)]), patch.stats()


class Failing(Counting):
    """Fails at one call."""

    fails_at = -1

    def _counted(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                raise RuntimeError("on purpose")
            return run(*args)

        return called


def _executed(model: Any, inputs: Any) -> int:
    """Attentions that really ran, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loop(model, inputs)
    ran = {event.key: event.count for event in profile.key_averages()}
    return ran.get("aten::scaled_dot_product_attention", 0)


@pytest.mark.parametrize("strategy", ["attention", "fora", "dit_block", "teacache"])
def test_skipped_is_not_run(strategy: str) -> None:
    """What counts as skipped does not run, as torch's profiler sees it."""
    model, inputs = build(FLUX)
    patch = autocache.patch(blocks(model, Counting()), tiny.choice(strategy))
    loop(model, inputs)
    before = patch.stats().attention
    ran = _executed(model, inputs)
    after = patch.stats().attention
    assert ran == after.run - before.run < after.total - before.total


def test_invariant_computes_inside_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """invariant has to see inputs, which would break the graph of each block: there it computes,
    says so once, and the graphs are the plain model's."""
    plain, backend = Counting(), Counting()
    model, inputs = build(WAN)
    expected = loop(model, inputs)
    loop(blocks(build(WAN)[0], plain), inputs)
    torch.compiler.reset()
    autocache.patch(blocks(model, backend), "invariant")
    for _ in range(2):
        assert torch.equal(loop(model, inputs), expected)
    assert backend.compiled == plain.compiled
    assert breaks() == {}
    assert sum("inside a compiled block" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("strategy", ["attention", "dit_block", "adacache"])
def test_off_and_on_again(strategy: str) -> None:
    """Off, a patched compiled model gives what the unpatched one does, bit for bit; switched on in
    the middle of a generation it skips without a graph break."""
    plain, inputs = build(WAN)
    expected = loop(plain, inputs)
    reference, _ = build(WAN)
    switched = autocache.patch(reference, strategy, enabled=False)
    model, _ = build(WAN)
    patch = autocache.patch(model, strategy, enabled=False)
    blocks(model, Counting())
    assert torch.equal(loop(model, inputs), expected)
    loop(reference, inputs)
    results = []
    for patched, denoiser in ((switched, reference), (patch, model)):
        patched.enabled = False
        first = loop(denoiser, inputs, TIMES[:2])
        patched.enabled = True
        results.append(torch.cat([first, loop(denoiser, inputs, TIMES[2:] * 2)]))
    assert torch.equal(*results)
    assert breaks() == {}
    assert patch.stats().attention == switched.stats().attention
    assert patch.stats().attention.share < 1


@pytest.mark.parametrize("strategy", ["attention", "dit_block"])
def test_compiled_in_the_middle_of_a_generation(strategy: str) -> None:
    """Compiled after some steps, and compiled once more, it goes on as if nothing had been."""
    expected, reference = _reference(FLUX, strategy)
    model, inputs = build(FLUX)
    patch = autocache.patch(model, strategy)
    results = [loop(model, inputs, TIMES[:3])]
    blocks(model, Counting())
    results.append(loop(model, inputs, TIMES[3:]))
    results.append(loop(model, inputs, TIMES[:3]))
    blocks(model, again := Counting())
    results.append(loop(model, inputs, TIMES[3:]))
    assert torch.equal(torch.cat(results), expected)
    assert trace(patch.stats()) == trace(reference)
    assert again.calls > 0
    assert breaks() == {}


@pytest.mark.parametrize("strategy", ["attention", "fora", "adacache", "dit_block"])
def test_unpatched_is_as_compiled(strategy: str) -> None:
    """patch, run, unpatch, run: the blocks are the compiled ones of before, with nothing around
    them, and what is run is the plain model again."""
    model, inputs = build(WAN)
    expected = loop(model, inputs)
    blocks(model, backend := Counting())
    inside = list(model.get_submodule("blocks").children())
    compiled = [vars(block)["_compiled_call_impl"] for block in inside]
    for _ in range(2):
        with autocache.patch(model, strategy):
            assert not torch.equal(loop(model, inputs), expected)
        for block, before in zip(inside, compiled, strict=True):
            assert vars(block)["_compiled_call_impl"] is before
            assert not any("autocache" in key for m in block.modules() for key in vars(m))
        assert torch.equal(loop(model, inputs), expected)
        last = backend.compiled
    # Switching back and forth compiles nothing that was compiled before.
    with autocache.patch(model, strategy):
        loop(model, inputs)
    assert backend.compiled == last


def test_a_dry_run() -> None:
    """A dry run computes everything, and its errors are those without compilation."""
    reference, inputs = build(FLUX)
    model, _ = build(FLUX)
    expected = loop(reference, inputs)
    errors = []
    for denoiser in (reference, blocks(model, Counting())):
        patch = autocache.patch(denoiser, "fora", dry_run=True)
        assert torch.equal(loop(denoiser, inputs), expected)
        errors.append([step.error for step in patch.stats().steps])
    assert errors[0] == errors[1]
    assert any(error is not None and error > 0 for error in errors[0])


def test_a_copy_has_its_own_weights() -> None:
    """A copied model is not compiled, and never calls what was compiled for the original."""
    model, inputs = build(WAN)
    autocache.patch(blocks(model, Counting()), "dit_block")
    loop(model, inputs)
    copied = copy.deepcopy(model)
    other, _ = tiny.build(WAN, seed=3)
    copied.load_state_dict(other.state_dict())
    autocache.patch(other, "dit_block")
    assert torch.equal(loop(copied, inputs), loop(other, inputs))
    blocks(copied, backend := Counting())
    assert torch.equal(loop(copied, inputs), loop(other, inputs))
    assert backend.calls > 0


@pytest.mark.parametrize("strategy", ["attention", "dit_block"])
def test_a_block_that_raises(strategy: str) -> None:
    """After an error in the middle of a compiled block's step the next generation is right, and
    nothing of the failed one is held."""
    expected, _ = _reference(FLUX, strategy)
    model, inputs = build(FLUX)
    patch = autocache.patch(blocks(model, backend := Failing()), strategy)
    loop(model, inputs, TIMES[:4])
    backend.fails_at = backend.calls + 3
    with pytest.raises(RuntimeError, match="on purpose"):
        loop(model, inputs, TIMES[:1])
    assert torch.equal(torch.cat([loop(model, inputs) for _ in range(2)]), expected)
    patch.reset()
    assert patch.stats().bytes_held == 0


def test_threads_in_compiled_blocks() -> None:
    """Two threads in one compiled model, turn by turn, each get what they get alone."""
    schedules = [TIMES, tuple(time - 0.05 for time in TIMES)]
    model, inputs = build(FLUX)
    alone = []
    for times in schedules:
        with autocache.patch(model, "attention"):
            alone.append(loop(model, inputs, times))
    autocache.patch(blocks(model, Counting()), "attention")
    turns, results = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2

    def work(number: int) -> None:
        outputs = []
        for time in schedules[number]:
            turns.wait()
            outputs.append(loop(model, inputs, [time])[0])
        results[number] = torch.stack(outputs)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, serial in zip(results, alone, strict=True):
        assert torch.equal(result, serial)
