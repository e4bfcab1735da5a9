"""What the source of a denoiser says about its block lists: how blocks are called in its loops."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Site:
    """One place where the blocks of a list are called.

    `targets` are the variables the result is assigned to, None for one that is no plain variable;
    without any, the result is used within an expression. `positional` and `keywords` are the
    variables passed as arguments, None or left out where something else is passed.
    """

    path: str
    targets: tuple[str | None, ...]
    positional: tuple[str | None, ...]
    keywords: tuple[tuple[str, str | None], ...]

    @property
    def replaces(self) -> bool:
        """Whether the result takes the place of something that was passed."""
        given = {*self.positional, *(value for _, value in self.keywords)} - {None}
        return bool(given & set(self.targets))

    def argument_of(self, variable: str | None, names: tuple[str, ...]) -> str | None:
        """The argument a variable is passed as; `names` are those of the block's forward."""
        if variable is None:
            return None
        for index, given in enumerate(self.positional):
            if given == variable and index < len(names):
                return names[index]
        return next((name for name, given in self.keywords if given == variable), None)


@functools.cache
def sites(cls: type[nn.Module]) -> tuple[Site, ...]:
    """Every call of a block in the methods of a class; none where there is no source."""
    found: list[Site] = []
    for method in _methods(cls):
        found += _Reader().read(method)
    return tuple(found)


def of(cls: type[nn.Module], path: str) -> Site | None:
    """The first call of the blocks in a list, one that assigns its result if there is any."""
    known = [site for site in sites(cls) if site.path == path]
    return next((site for site in known if site.replaces), known[0] if known else None)


def _methods(cls: type[nn.Module]) -> Iterator[ast.FunctionDef]:
    seen: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module:
            return
        for name, member in vars(base).items():
            function = inspect.unwrap(member) if inspect.isfunction(member) else None
            if function is None or name in seen:
                continue
            seen.add(name)
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            except (OSError, TypeError, SyntaxError):
                continue
            yield from (node for node in tree.body if isinstance(node, ast.FunctionDef))


class _Reader:
    """One method: `lists` are variables that stand for a list, `blocks` those for one of its
    blocks."""

    def __init__(self) -> None:
        self.lists: dict[str, str] = {}
        self.blocks: dict[str, str] = {}
        self.found: list[Site] = []

    def read(self, function: ast.FunctionDef) -> list[Site]:
        self._statements(function.body)
        return self.found

    def _statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.For):
                self._loop(statement)
            if isinstance(statement, ast.Assign):
                self._assign(statement)
            else:
                self._expressions(statement)
            for name in ("body", "orelse", "finalbody"):
                self._statements(getattr(statement, name, None) or [])

    def _loop(self, loop: ast.For) -> None:
        pairs = _pairs(loop.target, loop.iter)
        for target, iterated in pairs:
            path = self._list(iterated)
            if path is not None and isinstance(target, ast.Name):
                self.blocks[target.id] = path

    def _assign(self, statement: ast.Assign) -> None:
        target, value = statement.targets[0], statement.value
        path = self._list(value)
        if path is not None and isinstance(target, ast.Name):
            self.lists[target.id] = path
            return
        block = self._block(value)
        if block is not None and isinstance(target, ast.Name):
            self.blocks[target.id] = block
            return
        for call in _bare(value):
            if isinstance(call, ast.Call) and (path := self._block(call.func)) is not None:
                names = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
                self.found.append(_site(path, call, tuple(_name(item) for item in names)))
                return
        self._expressions(statement)

    def _expressions(self, statement: ast.stmt) -> None:
        for expression in ast.iter_child_nodes(statement):
            if not isinstance(expression, ast.expr):
                continue
            for node in ast.walk(expression):
                if isinstance(node, ast.Call) and (path := self._block(node.func)) is not None:
                    self.found.append(_site(path, node, ()))

    def _block(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Attribute) and node.attr in ("__call__", "forward"):
            node = node.value
        if isinstance(node, ast.Name):
            return self.blocks.get(node.id)
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                return None
            return self._list(node.value)
        return None

    def _list(self, node: ast.expr) -> str | None:
        """The path of the list an expression stands for."""
        if isinstance(node, ast.Name):
            return self.lists.get(node.id)
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else None
            wrapped = name in ("reversed", "list", "tuple", "iter") and node.args
            return self._list(node.args[0]) if wrapped else None
        if isinstance(node, ast.Subscript):
            if isinstance(node.slice, ast.Slice):
                return self._list(node.value)
            inner = _path(node.value)
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) and inner:
                return f"{inner}.{node.slice.value}"
            return None
        return _path(node)


def _pairs(target: ast.expr, iterated: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Which variable of a loop runs over what, through enumerate and zip."""
    if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and iterated.args:
        parts = target.elts if isinstance(target, ast.Tuple) else []
        if iterated.func.id == "enumerate" and len(parts) == 2:
            return _pairs(parts[1], iterated.args[0])
        if iterated.func.id == "zip":
            pairs = zip(parts, iterated.args, strict=False)
            return [pair for part, item in pairs for pair in _pairs(part, item)]
    return [(target, iterated)]


def _path(node: ast.expr) -> str | None:
    """`self.a.b` as "a.b"."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    known = isinstance(node, ast.Name) and node.id == "self" and parts
    return ".".join(parts) if known else None


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _bare(value: ast.expr) -> list[ast.expr]:
    """What an assigned expression may be, without choices between calls and taking an item."""
    if isinstance(value, ast.IfExp):
        return [*_bare(value.orelse), *_bare(value.body)]
    if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
        return _bare(value.value)
    return [value]


def _site(path: str, call: ast.Call, targets: tuple[str | None, ...]) -> Site:
    keywords = tuple((word.arg, _name(word.value)) for word in call.keywords if word.arg)
    return Site(path, targets, tuple(_name(argument) for argument in call.args), keywords)
