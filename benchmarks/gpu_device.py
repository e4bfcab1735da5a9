"""Time, memory and waits of a device, the same to call with and without a GPU."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from dispatched import READS, Dispatched

WAITS = "called a synchronizing CUDA operation"
"""What torch's warning of one begins with."""


class Marks:
    """Moments on the device, told apart once all of them are over; to set one waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._events: list[Any] = []

    def set(self) -> None:
        """One more."""
        if self._gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._events.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Between each mark and the next."""
        pairs = list(itertools.pairwise(self._events))
        if not self._gpu:
            return [(end - start) * 1e3 for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


class Waits:
    """While entered, counts the times that the host waits for the device.

    On a GPU torch tells of them; on a CPU, where nothing waits, those operations are counted that
    would, as they read a tensor's value.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = 0
        self._gpu = device.type == "cuda"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Waits:
        if self._gpu:
            self._said = self._stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        else:
            self._reads = self._stack.enter_context(Dispatched(READS))
        return self

    @property
    def so_far(self) -> int:
        """On a CPU, what was counted since it was entered."""
        return self._reads.count

    def __exit__(self, *raised: object) -> None:
        if self._gpu:
            torch.cuda.set_sync_debug_mode("default")
            self.count += sum(WAITS in str(one.message) for one in self._said)
        else:
            self.count += self._reads.count
        self._stack.close()


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[dict[str, int]]:
    """Bytes that were in use on the device at most, under "peak" once it is left; nothing on a
    CPU."""
    found: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize()
        found["peak"] = torch.cuda.max_memory_allocated()


def free() -> None:
    """Give back what nobody holds any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
