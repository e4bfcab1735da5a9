"""Held in the host's memory, and copied there and back beside what the device computes."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch

from autocache import device as devices
from autocache.runtime.encodings.base import Encoding, Held, Parts, kept_alive

HOST = torch.device("cpu")


class HeldOnHost(Held):
    """What an encoding makes of a tensor, in pinned host memory where that can be had.

    Where the device has streams, copies run in one of their own: the device goes on computing, and
    waits only for what it needs. So that a tensor that is not `owned` may be written to meanwhile,
    it is first copied where it is. What was fetched is on the device until it is decoded.
    """

    __slots__ = ("_back", "_there", "lent")
    away = True

    def __init__(self, encoding: Encoding, tensor: torch.Tensor, owned: bool = False) -> None:
        super().__init__(encoding, tensor)
        self._back: Parts | None = None
        self._there: Any = None
        self.lent = 0
        """Bytes on the device that were asked for, for what was fetched."""
        stream = _stream(self.device)
        if stream is not None:
            if not owned and self.parts[0] is tensor:
                self.parts = (tensor.clone(),)
            stream.wait_stream(_current(self.device))
        with _on(stream, self.device):
            self.parts = tuple(_copied(part, stream) for part in self.parts)
        self.bytes = sum(map(kept_alive, self.parts))

    @property
    def place(self) -> torch.device:
        return HOST

    def fetch(self) -> None:
        """Begin to copy it back."""
        if self._back is not None:
            return
        stream = _stream(self.device)
        # One stream for both ways: nothing is brought back before it has left.
        with _on(stream, self.device):
            self._back = tuple(part.to(self.device, non_blocking=True) for part in self.parts)
            self._there = None if stream is None else stream.record_event()

    def decode(self) -> torch.Tensor:
        self.fetch()
        parts, self._back = self._back, None
        assert parts is not None
        if self._there is not None:
            current = _current(self.device)
            current.wait_event(self._there)
            for part in parts:
                # It was made in the other stream, which must not have its memory again before.
                part.record_stream(current)
        return self.encoding.decode(parts, self.dtype)


def _copied(part: torch.Tensor, stream: Any) -> torch.Tensor:
    away = devices.on_host_like(part)
    away.copy_(part, non_blocking=stream is not None)
    if stream is not None:
        part.record_stream(stream)
    return away


@functools.cache
def _stream(device: torch.device) -> Any:
    """The stream for the copies of a device; None where it has none."""
    module = devices.streams(device)
    return None if module is None else module.Stream(device=device)


def _current(device: torch.device) -> Any:
    return devices.streams(device).current_stream(device)


def _on(stream: Any, device: torch.device) -> Any:
    if stream is None:
        return contextlib.nullcontext()
    return devices.streams(device).stream(stream)
