"""YAML with positions: plain values, and where in the file each of them stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autocache.errors import SpecError

if TYPE_CHECKING:
    from autocache.spec.facts import Location

# No honest file comes near these. Aliases of aliases grow exponentially, nested brackets take
# libyaml quadratic time and then overflow its stack, and so many digits take Python quadratic time.
MAX_BYTES = 500_000
MAX_NODES = 20_000
MAX_DEPTH = 50
MAX_NUMBER = 100
MAX_PROBLEMS = 100
STRING = "tag:yaml.org,2002:str"
TYPES = ("map", "seq", "str", "int", "float", "bool", "null")
TOO_LARGE = "the file is too large or too deeply nested"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """The value in a file, the position of each of its parts, and the problems met on the way."""

    path: Path
    value: Any
    marks: dict[Location, tuple[int, int]]
    problems: list[str]

    def position(self, location: Location) -> str:
        """`file:line:column` of the part, or of the nearest part around it."""
        while location and location not in self.marks:
            location = location[:-1]
        line, column = self.marks.get(location, (1, 1))
        return f"{self.path}:{line}:{column}"


def read(path: Path) -> Document:
    """Parse a file. Raises SpecError when it is unreadable or no YAML mapping at all."""
    return parse(_text(path), path)


def parse(text: str, path: Path) -> Document:
    """Parse what is, or will be, in a file. Raises SpecError when it is no YAML mapping."""
    node = _compose(text, path)
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(f"{path}:1:1: expected a mapping of keys to values")
    builder = _Builder(path)
    value = builder.build(node, (), ())
    return Document(path, value, builder.marks, builder.problems)


def _compose(text: str, path: Path) -> yaml.Node | None:
    loader: Any = None
    try:
        _check_size(text, path)
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = ": ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{path}:{line}:{column}: not valid YAML: {message}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise SpecError(f"{path}:1:1: not valid YAML: {message}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SpecError(f"{path}:1:1: cannot read the file: {reason}") from None
    if len(content) > MAX_BYTES:
        raise SpecError(f"{path}:1:1: {TOO_LARGE}")
    try:
        return content.decode("utf-8-sig")
    except ValueError as error:
        raise SpecError(f"{path}:1:1: the file is not UTF-8 text: {error}") from None


def _check_size(text: str, path: Path) -> None:
    """Raise SpecError before anything is built that could be too deep; parsing is iterative."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > 2 * MAX_NODES:
            mark = event.start_mark
            raise SpecError(f"{path}:{mark.line + 1}:{mark.column + 1}: {TOO_LARGE}")


class _Builder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.marks: dict[Location, tuple[int, int]] = {}
        self.problems: list[str] = []
        self.scalars = yaml.SafeLoader("")
        self.nodes = 0

    def build(self, node: yaml.Node, location: Location, parents: tuple[int, ...]) -> Any:
        self.nodes += 1
        if len(self.problems) > MAX_PROBLEMS:
            return None
        if id(node) in parents:
            self.report(node, "an alias refers to the part it stands in")
        elif self.nodes == MAX_NODES or len(parents) > MAX_DEPTH:
            # Once is enough: past the limit the rest of the file is not looked at.
            self.report(node, TOO_LARGE)
            self.nodes = MAX_NODES
        elif self.nodes < MAX_NODES:
            return self.expand(node, location, (*parents, id(node)))
        return None

    def expand(self, node: yaml.Node, location: Location, parents: tuple[int, ...]) -> Any:
        if node.tag.removeprefix("tag:yaml.org,2002:") not in TYPES:
            self.report(
                node, f"values of the type {node.tag!r} are not allowed; quote it if it is text"
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.build(value, (*location, key), parents)
                for key, value in self.pairs(node, location)
            }
        self.marks.setdefault(location, _mark(node))
        if isinstance(node, yaml.SequenceNode):
            values = []
            for i, item in enumerate(node.value):
                self.marks[(*location, i)] = _mark(item)
                values.append(self.build(item, (*location, i), parents))
            return values
        return self.scalar(node)

    def pairs(self, node: yaml.MappingNode, location: Location) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != STRING:
                self.report(key_node, "a key must be a string; quote it if it is meant as one")
            elif key in seen:
                self.report(key_node, f"key {key!r} is given twice, first on line {seen[key]}")
            else:
                seen[key] = key_node.start_mark.line + 1
                self.marks[(*location, key)] = _mark(key_node)
                yield key, value

    def scalar(self, node: yaml.Node) -> Any:
        if len(node.value) > MAX_NUMBER and node.tag != STRING:
            self.report(node, "the number is too long")
            return None
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            self.report(node, " ".join(str(getattr(error, "problem", None) or error).split()))
            return None

    def report(self, node: yaml.Node, message: str) -> None:
        line, column = _mark(node)
        self.problems.append(f"{self.path}:{line}:{column}: {message}")


def _mark(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
