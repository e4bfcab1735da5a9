"""Which marks a tensor carries: every tensor computed from a marked one carries its marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Mark = tuple[str, ...]
Marks = frozenset[Mark]
NONE: Marks = frozenset()
SOFTMAX = ("_softmax", "_safe_softmax")
SUMS = ("add", "add_", "addcmul", "addcmul_")


class Provenance(TorchDispatchMode):
    """While it is active, what an operation returns carries the marks of all its arguments.

    A sum also carries ("added", path) for every ("module", path) that only some of its terms carry.
    """

    supports_higher_order_operators = True

    def __init__(self, attends: Callable[[], None] = lambda: None) -> None:
        """`attends` is called whenever tokens attend to tokens."""
        super().__init__()
        self.attends = attends
        self.paused = False
        self._marks: dict[int, Marks] = {}
        # An id is only good for as long as its tensor lives.
        self._alive: list[torch.Tensor] = []

    def of(self, tensor: torch.Tensor) -> Marks:
        return self._marks.get(id(tensor), NONE)

    def set(self, tensor: torch.Tensor, marks: Marks) -> None:
        self._alive.append(tensor)
        self._marks[id(tensor)] = marks

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.paused:
            return output
        name = func.__name__.partition(".")[0]
        if "scaled_dot_product" in name or (name in SOFTMAX and args[0].ndim == 4):
            self.attends()
        given = [self.of(tensor) for tensor in tensors((args, kwargs))]
        marks = NONE.union(*given)
        if name in SUMS:
            marks |= {("added", path) for kind, path in _once(given) if kind == "module"}
        if marks:
            for tensor in tensors(output):
                self.set(tensor, self.of(tensor) | marks)
            for tensor in _written(func, args, kwargs):
                self.set(tensor, self.of(tensor) | marks)
        return output


def _once(given: list[Marks]) -> set[tuple[str, str]]:
    """The marks of modules that one of the terms carries and another does not."""
    some = NONE.union(*given)
    every = NONE.union(*given).intersection(*given) if given else NONE
    return {(mark[0], mark[1]) for mark in some - every if len(mark) == 2}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def _written(func: Any, args: tuple, kwargs: dict[str, Any]) -> Iterable[torch.Tensor]:
    """The arguments an operation writes into, and what they are views of."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[index] if index < len(args) else kwargs.get(argument.name)
        for tensor in tensors(given):
            yield tensor
            if tensor._base is not None:
                yield tensor._base
