"""YAML in the style of the bundled specs, with comments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100
BLOCK_DEPTH = {
    **{"stacks": 2, "proof": 2, "probes": 2},
    **dict.fromkeys(("guidance", "unet", "attention", "teacache", "magcache"), 1),
}
"""Down to which depth the values of a key get lines of their own, where they are not empty."""


class Question(str):
    """A comment about what could not be determined.

    It is decisive where without the answer nobody knows what may be skipped.
    """

    decisive = False


def question(text: str, *, decisive: bool = False) -> Question:
    """A comment about what could not be determined, marked as such."""
    made = Question(f"QUESTION: {text}")
    made.decisive = decisive
    return made


@dataclass
class Entry:
    """One key of a spec, and the comments above it."""

    key: str
    value: Any
    notes: Sequence[str] = ()


@dataclass
class Note:
    """Comment lines that belong to no key of the spec."""

    lines: Sequence[str]


def document(entries: Iterable[Entry | Note], head: Iterable[str] = ()) -> str:
    """The text of a spec. A line of `head` is put before everything else, as a comment."""
    lines = [f"# {line}" for line in head]
    for entry in entries:
        if isinstance(entry, Note):
            lines += comment(entry.lines, 0)
            continue
        lines += comment(entry.notes, 0)
        lines += _pair(entry.key, entry.value, 0, BLOCK_DEPTH.get(entry.key, 0))
    return "\n".join(lines) + "\n"


def questions(entries: Iterable[Entry | Note]) -> Iterator[Question]:
    """Every question among the comments of a document."""
    for entry in entries:
        notes = entry.lines if isinstance(entry, Note) else entry.notes
        yield from (note for note in notes if isinstance(note, Question))
        if isinstance(entry, Entry):
            yield from _within(entry.value)


def _within(value: Any) -> Iterator[Question]:
    if isinstance(value, Noted):
        yield from (note for note in value.notes if isinstance(note, Question))
        value = value.value
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _within(item)


@dataclass
class Noted:
    """A value with comment lines, which go above its key, or above its item of a list."""

    value: Any
    notes: Sequence[str]


def comment(notes: Iterable[str], indent: int) -> list[str]:
    """Comment lines, folded at the width of a spec."""
    return [line for note in notes for line in _folded(note, indent)]


def _folded(note: str, indent: int) -> Iterator[str]:
    start = " " * indent + "# "
    yield from _filled(note.split(), start)


def _filled(words: Iterable[str], start: str) -> Iterator[str]:
    """Lines of words, none of them wider than a spec is if there is a choice."""
    line = start
    for word in words:
        if line != start and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = start
        line += word if line == start else f" {word}"
    yield line.rstrip()


def _pair(key: str, value: Any, indent: int, depth: int) -> Iterator[str]:
    if isinstance(value, Noted):
        yield from comment(value.notes, indent)
        value = value.value
    start = " " * indent + f"{scalar(key)}:"
    short = f"{start} {flow(value)}"
    fits = depth <= 0 and len(short) <= WIDTH and not _noted(value)
    if not _structured(value) or not value or fits:
        yield short
    elif isinstance(value, Mapping):
        yield start
        for name, item in value.items():
            yield from _pair(str(name), item, indent + 2, depth - 1)
    elif any(map(_structured, value)) or _noted(value) or (not fits and indent == 0):
        yield start
        for item in value:
            yield from _item(item, indent + 2, depth - 1)
    elif len(short) <= WIDTH:
        yield short
    else:
        yield f"{start} ["
        yield from _filled([f"{scalar(item)}," for item in value], " " * (indent + 2))
        yield " " * indent + "]"


def _item(item: Any, indent: int, depth: int) -> Iterator[str]:
    if isinstance(item, Noted):
        yield from comment(item.notes, indent)
        item = item.value
    short = " " * indent + f"- {flow(item)}"
    if not isinstance(item, Mapping) or (depth < 0 and len(short) <= WIDTH):
        yield short
        return
    lead = "- "
    for name, value in item.items():
        for line in _pair(str(name), value, indent + 2, depth - 1):
            if lead.strip() and not line.lstrip().startswith("#"):
                yield " " * indent + lead + line.lstrip()
                lead = "  "
            else:
                yield line


def _structured(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _noted(value: Any) -> bool:
    if isinstance(value, Noted):
        return True
    if isinstance(value, Mapping):
        return any(map(_noted, value.values()))
    return isinstance(value, list | tuple) and any(map(_noted, value))


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Noted):
        return flow(value.value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A string, number, boolean or null, quoted where YAML wants it."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    # Between brackets these are signs of their own, a question mark to some readers only.
    quoted = isinstance(value, str) and (text != value or any(sign in value for sign in "[]{},?"))
    return json.dumps(value, ensure_ascii=False) if quoted else text
