"""Validation errors of a file, turned into lines a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from autocache.errors import nearest
from autocache.spec.document import MAX_PROBLEMS, Document
from autocache.spec.facts import Location
from autocache.spec.schema import Spec


def explain(error: ValidationError, document: Document, root: type[BaseModel] = Spec) -> list[str]:
    """One line `file:line:column: message` per problem of a `root`, in the order of the file."""
    found: dict[tuple[Location, str, str], list[str]] = {}
    for item in error.errors(include_url=False)[:MAX_PROBLEMS]:
        for location, subject, message, given in _messages(item, document, root):
            texts = found.setdefault((location, subject, given), [])
            if message not in texts:
                texts.append(message)
    lines = [
        (document.position(location), subject + " or ".join(texts) + given)
        for (location, subject, given), texts in found.items()
    ]
    return [f"{position}: {text}" for position, text in sorted(lines, key=_by_line)]


def _by_line(item: tuple[str, str]) -> tuple[int, int]:
    line, column = item[0].split(":")[-2:]
    return int(line), int(column)


def _messages(
    item: Any, document: Document, root: type[BaseModel]
) -> Iterator[tuple[Location, str, str, str]]:
    """Where, what it is about, what is wrong, and what was found instead."""
    kind, context = item["type"], item.get("ctx", {})
    location = _existing(item["loc"], document)
    if kind == "facts":
        yield from ((tuple(at), "", message, "") for at, message in context["problems"])
    elif kind == "extra_forbidden":
        key = str(item["loc"][-1])
        yield location, "", f"unknown key {key!r}{nearest(key, _keys(item['loc'][:-1], root))}", ""
    elif kind == "missing":
        # Its own location: two missing keys of one mapping must not merge into an alternative.
        yield item["loc"], "", f"missing key {item['loc'][-1]!r}", ""
    elif kind == "literal_error":
        valid = [word.strip("' ") for word in context["expected"].replace(" or ", ",").split(",")]
        given = item["input"]
        yield location, "", f"{given!r} is not allowed{nearest(str(given), valid)}", ""
    elif kind == "string_pattern_mismatch":
        yield location, "", f"expected 'package.module:Class', not {_shown(item['input'])}", ""
    elif item["msg"].startswith("Input should") and location:
        message = item["msg"].removeprefix("Input ")
        yield location, f"{location[-1]!r} ", message, f", not {_shown(item['input'])}"
    else:
        yield location, "", item["msg"].removeprefix("Value error, "), ""


def _existing(location: Location, document: Document) -> Location:
    # Pydantic adds the alternative of a union and "[key]" to a location; the file has neither.
    existing: Location = ()
    for part in location:
        existing = (*existing, part) if (*existing, part) in document.marks else existing
    return existing


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _keys(location: Location, root: type[BaseModel]) -> list[str]:
    """The keys a mapping at this location may have."""
    current: Any = root
    for part in location:
        fields = _fields(current)
        annotation = fields[str(part)].annotation if str(part) in fields else current
        current = next(_models(annotation), current)
    return list(_fields(current))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
