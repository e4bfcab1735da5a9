"""Putting a table into the text of a spec file: everything else in it stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from autocache.authoring.yaml_writer import Entry, document
from autocache.errors import SpecError
from autocache.spec.loader import loads


def snippet(key: str, table: dict[str, Any]) -> str:
    """The list `key` of a spec with a table in it."""
    return document([Entry(key, [table])])


def inserted(text: str, file: Path, key: str, table: dict[str, Any]) -> str:
    """The text of a spec file with a table first in the list `key`, where it goes before others of
    the same checkpoint. One of the same id, and the comments within it, give way.

    Raises:
        SpecError: the list is not written in lines of its own, or the result is no valid spec of
            the same content otherwise.
    """
    lines = text.splitlines()
    written = snippet(key, table).splitlines()
    node = _list(text, key)
    if node is None:
        changed = [*lines, *written]
    elif node.flow_style and node.value:
        raise SpecError(
            f"{file}:{node.start_mark.line + 1}:1: {key} is written between brackets; give each of "
            "its tables lines of its own, so that another can be added"
        )
    else:
        lines = _without(lines, node, table["id"])
        head = next(n for n in range(node.start_mark.line, -1, -1) if lines[n].startswith(key))
        if not node.value:
            lines[head] = f"{key}:"
        indent = " " * (node.start_mark.column if node.value else 2)
        changed = [*lines[: head + 1], *(indent + w[2:] for w in written[1:]), *lines[head + 1 :]]
    made = "\n".join(changed) + "\n"
    _check(text, made, file, key, table["id"])
    return made


def _list(text: str, key: str) -> Any:
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    return next((value for name, value in root.value if name.value == key), None)


def _without(lines: list[str], node: Any, id: str) -> list[str]:
    """The lines but for those of the item of that id."""
    for item in node.value:
        keys = {name.value: value.value for name, value in item.value}
        if keys.get("id") == id:
            return [*lines[: item.start_mark.line], *lines[_end(item) + 1 :]]
    return lines


def _end(node: Any) -> int:
    """The last line of a node. A block's own mark is where the next token begins."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return node.end_mark.line
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _check(before: str, after: str, file: Path, key: str, id: str) -> None:
    """Raises SpecError unless the texts differ in that table only."""
    old, new = loads(before, str(file)), loads(after, str(file))
    others = [table for table in getattr(old, key) if table.id != id]
    tables = getattr(new, key)
    same = old.model_dump(exclude={key}) == new.model_dump(exclude={key})
    if not same or tables[0].id != id or tables[1:] != others:
        raise SpecError(f"{file}: the table {id} cannot be put into {key} of this file")
