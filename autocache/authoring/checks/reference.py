"""What skipping is by definition, done on a plain model with torch's own hooks.

It shares nothing with what is being proven: blocks do run, and what comes out of a skipped range is
replaced by what went in plus the residual of the last step that counted.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocache.spec.schema import Stack

Plan = Mapping[str, tuple[int, int]]
"""A half-open range of blocks for each stack's path."""


class Arguments:
    """Reads and replaces streams: by the name of an argument, and of what is within it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def entering(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The streams a block is given."""
        given = inspect.signature(type(block).forward).bind(block, *args, **kwargs)
        given.apply_defaults()
        found = {}
        for stream in self.stack.return_order:
            argument, *inside = stream.split(".")
            found[stream] = _at(given.arguments[argument], inside)
        return found

    def returned(self, output: Any) -> dict[str, Any]:
        """The streams in what a block returned."""
        found = {}
        for name, value in zip(self.stack.return_items, self._items(output), strict=True):
            for stream in self.stack.streams_of(name) if name else ():
                found[stream] = _at(value, stream.removeprefix(name or "").split(".")[1:])
        return found

    def others(self, output: Any) -> list[Any]:
        """What a block returned that is no stream."""
        pairs = zip(self.stack.return_items, self._items(output), strict=True)
        return [value for name, value in pairs if name is None]

    def replaced(self, output: Any, streams: Mapping[str, Any], others: list[Any]) -> Any:
        """An output with other streams, and other values that are none."""
        left, items = iter(others), []
        for name, value in zip(self.stack.return_items, self._items(output), strict=True):
            new = next(left) if name is None else value
            for stream in self.stack.streams_of(name) if name else ():
                path = stream.removeprefix(name or "").split(".")[1:]
                new = _put(new, path, streams[stream])
            items.append(new)
        return items[0] if self._bare else tuple(items)

    @property
    def _bare(self) -> bool:
        return isinstance(self.stack.returns, str)

    def _items(self, output: Any) -> tuple[Any, ...]:
        return (output,) if self._bare else tuple(output)


class Recomposed:
    """A plain model whose ranges of blocks are replaced, on demand, by entry plus residual.

    A range of another stack that is given the very tensors that the one before it returned counts
    from where that one was entered: the two are one.

    With `idle` the blocks within a range hand on what they were given, as skipped ones do; else
    they compute, and only what leaves the range is replaced.
    """

    def __init__(
        self, model: nn.Module, stacks: Mapping[str, Stack], plan: Plan, idle: bool = False
    ) -> None:
        self.skipping = False
        self.idle = idle
        self._left: tuple[dict[str, Any], dict[str, Any]] | None = None
        """What the range before returned, and what had entered it."""
        for path, (start, end) in plan.items():
            stack, blocks = stacks[path], list(model.get_submodule(path).children())
            if stack.each:
                for block in blocks[start:end]:
                    self._watch(block, block, Arguments(stack))
                continue
            self._watch(blocks[start], blocks[end - 1], Arguments(stack))
            for block in blocks[start : end - 1] if idle else ():
                self._pass(block, Arguments(stack))

    def _watch(self, first: nn.Module, last: nn.Module, arguments: Arguments) -> None:
        entry: dict[str, Any] = {}
        residual: dict[str, Any] = {}
        others: list[Any] = []

        def enters(module: nn.Module, args: tuple, kwargs: dict) -> None:
            given = arguments.entering(module, args, kwargs)
            entry.update({n: None if v is None else v.clone() for n, v in given.items()})
            if self._left is not None and not arguments.stack.each:
                left, entered = self._left
                if left.keys() == given.keys() and all(left[n] is given[n] for n in given):
                    entry.update(entered)

        def leaves(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if not self.skipping:
                left = arguments.returned(output)
                residual.update({name: _minus(left[name], entry[name]) for name in left})
                others[:] = copy.deepcopy(arguments.others(output))
                note(left)
                return None
            restored = {
                name: None if added is None else entry[name] + added
                for name, added in residual.items()
            }
            note(restored)
            return arguments.replaced(output, restored, others)

        def note(left: dict[str, Any]) -> None:
            alone = arguments.stack.each or None in arguments.stack.return_items
            self._left = None if alone else (left, dict(entry))

        first.register_forward_pre_hook(enters, with_kwargs=True)
        last.register_forward_hook(leaves, with_kwargs=True)

    def _pass(self, block: nn.Module, arguments: Arguments) -> None:
        def leaves(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if not self.skipping:
                return None
            given = arguments.entering(module, args, kwargs)
            return arguments.replaced(output, given, arguments.others(output))

        block.register_forward_hook(leaves, with_kwargs=True)


class Reused:
    """A plain model in which the outputs of some modules are, on demand, those of the last step
    that counted."""

    def __init__(self, modules: list[tuple[nn.Module, int]]) -> None:
        """Each with how often it runs in one call."""
        self.skipping = False
        for module, runs in modules:
            self._watch(module, runs)

    def _watch(self, module: nn.Module, runs: int) -> None:
        kept: list[Any] = []

        def leaves(module: nn.Module, args: tuple, output: Any) -> Any:
            if self.skipping:
                kept.append(kept.pop(0))
                return kept[-1]
            kept[:] = [*kept, copy.deepcopy(output)][-runs:]
            return None

        module.register_forward_hook(leaves)


def _minus(after: Any, before: Any) -> torch.Tensor | None:
    return None if after is None or before is None else after - before


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        if isinstance(value, Mapping):
            value = value[name]
        else:
            value = value[int(name)] if name.isdecimal() else getattr(value, name)
    return value


def _put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    name, *rest = path
    inner = _put(_at(value, [name]), rest, new)
    if isinstance(value, tuple):
        place = int(name) if name.isdecimal() else type(value)._fields.index(name)  # type: ignore
        items = [inner if nth == place else item for nth, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    value = copy.copy(value)
    if isinstance(value, dict):
        value[name] = inner
    elif isinstance(value, list):
        value[int(name)] = inner
    else:
        # Also where the class forbids it: the copy is ours.
        object.__setattr__(value, name, inner)
    return value
