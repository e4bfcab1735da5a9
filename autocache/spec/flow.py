"""How streams go through a block: out of what it was given, and into what it returns."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from autocache.spec.schema import Stack


@dataclass(frozen=True)
class _Item:
    """One value a block returns: the streams in it, by their place among all of the stack's.

    `paths` tell where in the value each of them is; none where the value itself is the stream.
    """

    name: str | None
    streams: tuple[int, ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()


class Flow:
    """The streams of one stack's blocks, in the order in which a block returns them."""

    def __init__(self, stack: Stack) -> None:
        # Interned as the names in calls are, by which they are looked up without being compared.
        self.names = tuple(map(sys.intern, stack.return_order))
        self._bare = isinstance(stack.returns, str)
        items: list[_Item] = []
        nth = 0
        for name in stack.return_items:
            inside = stack.streams_of(name) if name else ()
            places = tuple(range(nth, nth + len(inside)))
            own = inside == (name,)
            paths = () if own else tuple(_below(stream) for stream in inside)
            items.append(_Item(name, places, paths))
            nth += len(inside)
        self._items = tuple(items)
        self._plain = all(item.name and not item.paths for item in items)
        self.extras = sum(item.name is None for item in items)
        """How many of the values a block returns are no streams."""
        self.containers = tuple(item.name for item in items if item.name and item.paths)
        """The arguments that streams are within and that come back."""

    def split(self, output: Any) -> tuple[torch.Tensor | None, ...]:
        """The streams in what a block returned."""
        values = (output,) if self._bare else tuple(output)
        if self._plain:
            return values
        found: list[torch.Tensor | None] = []
        for item, value in zip(self._items, values, strict=True):
            if item.paths:
                found.extend(reach(value, path) for path in item.paths)
            elif item.streams:
                found.append(value)
        return tuple(found)

    def others(self, output: Any) -> tuple[Any, ...]:
        """What a block returned that is no stream."""
        if not self.extras:
            return ()
        pairs = zip(self._items, output, strict=True)
        return tuple(value for item, value in pairs if item.name is None)

    def join(
        self,
        streams: tuple[torch.Tensor | None, ...],
        given: Mapping[str, Any],
        others: tuple[Any, ...] = (),
    ) -> Any:
        """What a block would return: these streams, and the values that are none.

        `given` holds, by its name, each argument that streams are within (`containers`).
        """
        if self._plain:
            return streams[0] if self._bare else streams
        left = iter(others)
        values = tuple(self._value(item, streams, given, left) for item in self._items)
        return values[0] if self._bare else values

    @staticmethod
    def _value(
        item: _Item,
        streams: tuple[torch.Tensor | None, ...],
        given: Mapping[str, Any],
        others: Any,
    ) -> Any:
        if item.name is None:
            return next(others)
        if not item.paths:
            return streams[item.streams[0]]
        value = given[item.name]
        for nth, path in zip(item.streams, item.paths, strict=True):
            value = _replaced(value, path, streams[nth])
        return value


def reach(value: Any, path: tuple[str, ...]) -> Any:
    """What is at a path of attributes, keys or indices within a value."""
    for name in path:
        if isinstance(value, Mapping):
            value = value[name]
        elif name.isdecimal():
            value = value[int(name)]
        else:
            value = getattr(value, name)
    return value


def _below(stream: str) -> tuple[str, ...]:
    return tuple(stream.split(".")[1:])


def _replaced(value: Any, path: tuple[str, ...], new: Any) -> Any:
    """A copy of a value, with what is at the path replaced."""
    if not path:
        return new
    name, *rest = path
    new = _replaced(reach(value, (name,)), tuple(rest), new)
    if isinstance(value, tuple) and not name.isdecimal():
        return value._replace(**{name: new})  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        items = (*value[: int(name)], new, *value[int(name) + 1 :])
        return type(value)(*items) if hasattr(value, "_fields") else items
    copied = copy.copy(value)
    if isinstance(copied, Mapping):
        copied[name] = new  # type: ignore[index]
    elif name.isdecimal():
        copied[int(name)] = new
    else:
        object.__setattr__(copied, name, new)
    return copied
