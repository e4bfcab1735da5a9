"""Modules found by path, and the arguments of their forwards found by name."""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from autocache.errors import nearest
from autocache.spec.flow import reach


class Signature:
    """Finds arguments by name in the (args, kwargs) of a call, as the callee would."""

    __slots__ = ("defaults", "names", "positions")

    def __init__(self, cls: type[nn.Module]) -> None:
        parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.positions = {p.name: i for i, p in enumerate(parameters) if p.kind in positional}
        self.names = tuple(p.name for p in parameters if p.kind not in variadic)
        self.defaults = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }

    def get(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of the named argument, its default when the call leaves it out.

        After dots follow names or indices of what is within it.

        Raises TypeError when the call leaves out an argument that has no default.
        """
        if name in kwargs:
            return kwargs[name]
        position = self.positions.get(name)
        if position is not None and position < len(args):
            return args[position]
        if name in self.defaults:
            return self.defaults[name]
        argument, dot, inside = name.partition(".")
        if dot:
            return reach(self.get(argument, args, kwargs), tuple(inside.split(".")))
        raise TypeError(f"argument {name!r} is missing{nearest(name, self.names)}")


@functools.cache
def signature(cls: type[nn.Module]) -> Signature:
    """The signature of a module class, read once per class."""
    return Signature(cls)


def named(model: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """The modules whose path fits a pattern, in which `*` stands for anything.

    A `?` at its end says that there may be none.
    """
    pattern = pattern.removesuffix("?")
    return [(n, m) for n, m in model.named_modules() if fnmatch.fnmatchcase(n, pattern)]


def present(block: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """Those of the named sub-modules that a block has: name, path, module."""
    for name in names:
        path = name.removesuffix("?")
        module = submodule(block, path)
        if module is not None:
            yield name, path, module


def submodule(parent: nn.Module, path: str) -> nn.Module | None:
    """The module at a path, None where there is none."""
    try:
        return parent.get_submodule(path)
    except AttributeError:
        return None
