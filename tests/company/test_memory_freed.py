"""What is cached is gone after a generation, and as soon as it is of no use, but with `keep`."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.runtime.store import Store
from devices import DEVICE

EVERY_OTHER: dict[str, Any] = {"step_start": 0, "step_interval": 2}
CHOICES: dict[str, dict[str, Any]] = {
    "attention": EVERY_OTHER,
    "auto": {"speedup": 2.0},
    "dit_block": EVERY_OTHER,
    "easycache": {"threshold": 1e9, "warmup_steps": 1},
    "fbcache": {"threshold": 1e9},
    "taylorseer": {"interval": 2, "warmup_steps": 1},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 1e9},
}


@contextmanager
def _watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[torch.Tensor]]]:
    """Weak references to all tensors that are put into any store, and to what is held of them."""
    seen: list[weakref.ref[torch.Tensor]] = []
    put = Store.put_all

    def watched(self: Store, name: str, pieces: Any, *args: Any, **kwargs: Any) -> bool:
        seen.extend(weakref.ref(piece.tensor) for piece in pieces)
        kept = put(self, name, pieces, *args, **kwargs)
        for values in self._entries.get(name, {}).values():
            seen.extend(weakref.ref(part) for entry in values for part in entry.held.parts)
        return kept

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_all", watched)
        yield seen


def _alive(seen: list[weakref.ref[torch.Tensor]]) -> int:
    return sum(reference() is not None for reference in seen)


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("name", ["flux", "wan"])
@pytest.mark.parametrize("strategy", CHOICES)
def test_a_generation_leaves_no_tensor(
    monkeypatch: pytest.MonkeyPatch, strategy: str, name: str, dry: bool
) -> None:
    """When the pipeline returns, none that was cached is alive, without the collector's help."""
    pipe = make(name)
    patch = autocache.patch(pipe, strategy, **CHOICES[strategy], dry_run=dry)
    gc.collect()
    gc.disable()
    try:
        with _watched(monkeypatch) as seen:
            drawn = run(pipe, guided=name == "wan")
        own = weakref.ref(drawn)
        del drawn
        assert len(seen) > 0
        assert _alive(seen) == 0
        assert own() is None
        assert patch.stats().bytes_held == 0 < patch.stats().bytes_peak
    finally:
        gc.enable()


@pytest.mark.parametrize("strategy", ["attention", "dit_block", "teacache"])
def test_keep_leaves_it_until_the_next(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """With `keep=True` it stays, is never used in another generation, and goes with the next one,
    a reset or the patch."""
    pipe = make("flux")
    plain = autocache.patch(pipe, strategy, **CHOICES[strategy])
    drawn, skipped = run(pipe), plain.stats().attention
    patch = autocache.patch(pipe, strategy, **CHOICES[strategy], keep=True)
    ends: list[Callable[[], Any]] = [lambda: run(pipe), patch.reset, patch.unpatch]
    for end in ends:
        before = patch.stats()
        with _watched(monkeypatch) as seen:
            assert torch.equal(run(pipe), drawn)
        after = patch.stats()
        assert after.attention.run - before.attention.run == skipped.run
        assert after.bytes_held == sum(place.held for place in after.memory.places) > 0
        assert _alive(seen) > 0
        end()
        assert _alive(seen) == 0


def test_a_pipeline_that_is_broken_off_frees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an exception in a callback, or by its own interrupt."""
    pipe = make("flux")
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER)

    def fail(pipe: Any, step: int, timestep: Any, given: dict) -> dict:
        if step == 3:
            assert patch.stats().bytes_held > 0
            raise RuntimeError("the user went away")
        return given

    def interrupt(pipe: Any, step: int, timestep: Any, given: dict) -> dict:
        pipe._interrupt = step >= 3
        return given

    with _watched(monkeypatch) as seen:
        with pytest.raises(RuntimeError, match="went away"):
            run(pipe, callback_on_step_end=fail)
        gc.collect()  # The traceback held the loop's own tensors.
        assert patch.stats().bytes_held == _alive(seen) == 0
        run(pipe, callback_on_step_end=interrupt)
        assert patch.stats().bytes_held == _alive(seen) == 0


@pytest.mark.parametrize("strategy", ["attention", "dit_block", "auto"])
def test_a_loop_of_ones_own(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """Where nobody tells that a generation is over, the next one's first call frees what the last
    one left; so do a reset and taking the patch off."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    patch = autocache.patch(model, strategy, **CHOICES[strategy])

    def loop() -> None:
        with torch.no_grad():
            for step in range(6):
                model(**inputs(1 - step / 6))

    loop()
    for end in (lambda: model(**inputs(1.0)), patch.reset, patch.unpatch):
        with _watched(monkeypatch) as seen, torch.no_grad():
            loop()
            assert _alive(seen) > 0
            count = len(seen)
            end()
            assert _alive(seen[:count]) == 0


def test_an_expert_that_is_taken_over_from_keeps_nothing() -> None:
    """Wan's second expert has the limit to itself: what the first cached goes as it begins."""
    pipe = make("wan")
    patch = autocache.patch(pipe, "attention", **EVERY_OTHER)
    held: list[int] = []

    def look(pipe: Any, step: int, timestep: Any, given: dict) -> dict:
        held.append(patch.stats().bytes_held)
        return given

    run(pipe, guided=True, callback_on_step_end=look)
    one = held[0]
    # The first one runs an even number of the eight steps, so the second keeps at once too.
    assert held[:-1] == [one] * 7
    assert patch.stats().bytes_peak == one
    owners = {record.step: record.denoiser for record in patch.stats().steps}
    assert len(owners) == 8


def test_a_thread_that_ends_frees_what_it_kept() -> None:
    """Also one that stopped in the middle, so that a limit is not used up by the dead."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    patch = autocache.patch(model, "dit_block", **EVERY_OTHER, memory_limit="16KiB")
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with torch.no_grad():
                for step in range(3):
                    model(**inputs(1 - step / 8))
        except BaseException as error:
            failed.append(error)

    for _ in range(4):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    gc.collect()
    assert failed == []
    assert patch.stats().bytes_held == 0


class Doubles(nn.Module):
    """A denoiser with an output of 40 MiB, for a strategy that needs to know nothing of it."""

    def forward(self, hidden_states: torch.Tensor, timestep: float) -> torch.Tensor:
        return hidden_states * (2 + timestep)


def _resident() -> int:
    """Bytes that the process has in memory, without those that its allocator could give back."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(
    DEVICE.type != "cpu" or sys.platform != "linux", reason="measures the memory of a Linux process"
)
@pytest.mark.parametrize("way", [None, "bf16", "int8"])
def test_the_process_gets_it_back(way: str | None) -> None:
    """With three outputs of 40 MiB in the cache it is as much larger, or as the form says; as large
    as before when the cache is gone. What the allocator does besides is below 24 MiB."""
    model, slack, mib = Doubles(), 24 * 2**20, 2**20
    options: dict[str, Any] = {"memory_limit": 100 * mib, "memory_fit": way} if way else {}
    given = torch.ones(1, 10240, 1024)
    with torch.no_grad():
        model(given, 0.5)
        before = _resident()
        patch = autocache.patch(model, "auto", **options)
        for step in range(3):
            model(given, 1 - step / 8)
        during, held = _resident() - before, patch.stats().bytes_held
        patch.unpatch()
        after = _resident() - before
    expected = {None: 120, "bf16": 60, "int8": 30}[way] * mib
    assert expected <= held < expected * 1.01
    assert abs(during - held) < slack
    assert abs(after) < slack
