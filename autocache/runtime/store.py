"""The one owner of cached tensors: accounts for them, guards them, and honours the memory limit."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch

from autocache.errors import MemoryLimitError


class Value(NamedTuple):
    """A tensor as it was at a step; `version` tells whether someone wrote into it since.

    `time` is the step's timestep, where the rule that fills the gap looks at it.
    """

    step: int
    tensor: torch.Tensor
    version: int
    time: float | None = None


def readable_bytes(count: float) -> str:
    """A byte count as people write it: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def parse_bytes(limit: int | str | None) -> int | None:
    """Bytes of `1048576`, `"512MiB"`, `"2 GB"`; None is no limit.

    Raises:
        ValueError: the text is no number with a known unit, or not above zero.
    """
    if limit is None:
        return None
    text = str(limit).replace(" ", "")
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    unit = text[len(digits) :]
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r} in memory limit {limit!r}; expected e.g. '2GiB'")
    count = int(float(digits) * units[unit])
    if count <= 0:
        raise ValueError(f"memory limit must be above zero, not {limit!r}")
    return count


class Ledger:
    """Bytes held by all stores of one session, and the most there ever were."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.held = 0
        self.peak = 0

    def add(self, count: int, expected: int = 1) -> None:
        """Account for `count` more bytes, of which `expected` alike are still to come.

        Raises:
            MemoryLimitError: they do not fit the limit.
        """
        if self.limit is not None and self.held + count > self.limit:
            needed = max(self.held + count, count * expected)
            raise MemoryLimitError(
                f"the strategy has to keep about {readable_bytes(needed)} per guidance branch, but "
                f"memory_limit is {readable_bytes(self.limit)}; raise the limit, or choose a "
                "strategy that keeps less (dit_block keeps one residual per stream and stack)"
            )
        self.held += count
        self.peak = max(self.peak, self.held)

    def release(self, count: int) -> None:
        self.held -= count


def _version(tensor: torch.Tensor) -> int:
    # Inference tensors keep no version counter; they are cloned on entry instead.
    return -1 if tensor.is_inference() else tensor._version


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Store:
    """The cached tensors of one guidance branch, each with its last few values."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._values: dict[Hashable, tuple[Value, ...]] = {}
        self._written_to: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._values)

    def put(
        self,
        key: Hashable,
        tensor: torch.Tensor,
        step: int,
        *,
        time: float | None = None,
        keep: int = 1,
        owned: bool = False,
        expected: int = 1,
    ) -> None:
        """Remember a tensor. One that is not `owned` may be written to by the model later, which
        `get` notices; from then on its like is cloned. Of a step, what comes last counts."""
        if not owned and (tensor.is_inference() or key in self._written_to):
            tensor = tensor.clone()
        before = self._values.get(key, ())
        earlier = before[:-1] if before and before[-1].step == step else before
        kept = earlier[max(0, len(earlier) - keep + 1) :]
        dropped = sum(_bytes(v.tensor) for v in before) - sum(_bytes(v.tensor) for v in kept)
        self._ledger.release(dropped)
        self._values[key] = kept
        self._ledger.add(_bytes(tensor), expected)
        self._values[key] = (*kept, Value(step, tensor, _version(tensor), time))

    def get(self, key: Hashable, like: torch.Tensor | None = None) -> tuple[Value, ...]:
        """The last values, oldest first; empty when there are none, when they do not fit `like` in
        shape, dtype or device, or when someone wrote into them."""
        values = self._values.get(key, ())
        for value in values:
            if _version(value.tensor) != value.version:
                self._written_to.add(key)
                self.drop(key)
                return ()
            if like is not None and not fits(value.tensor, like):
                self.drop(key)
                return ()
        return values

    def drop(self, key: Hashable) -> None:
        self._ledger.release(sum(_bytes(v.tensor) for v in self._values.pop(key, ())))

    def clear(self) -> None:
        for key in list(self._values):
            self.drop(key)


def fits(cached: torch.Tensor, live: torch.Tensor) -> bool:
    """Whether a cached tensor can stand in for one like `live`."""
    return (
        cached.shape == live.shape and cached.dtype == live.dtype and cached.device == live.device
    )
