"""What the value of AUTOCACHE means: a strategy, with or without parameters, or a file of both.

    AUTOCACHE=teacache
    AUTOCACHE=teacache:threshold=0.1,warmup=2
    AUTOCACHE=attention:kinds=[self,cross],interval=2
    AUTOCACHE=fast.yaml

A value is a YAML scalar or a YAML list in brackets. A file has two keys, `strategy` (a name) and
`parameters` (a mapping, may be left out). Parameters are the keyword arguments of
`autocache.patch`, hence `dry_run=true` and `memory_limit=...` are among them. Whether names exist
is not decided here: `autocache.patch` does, when there is a model.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocache.errors import AutocacheError, ParameterError, nearest

_KEYS = ("strategy", "parameters")
_TAKEN = ("target", "strategy")


@dataclass(frozen=True)
class Request:
    """A strategy's name and the keyword arguments that go with it."""

    strategy: str
    parameters: dict[str, Any] = field(default_factory=dict)


def off(text: str) -> bool:
    """Whether a value of AUTOCACHE asks for nothing, as the start-up hook sees it."""
    return text.strip().lower() in ("", "off", "0")


def parse(text: str) -> Request:
    """The request a value of AUTOCACHE stands for.

    Raises:
        ParameterError: the value does not follow the grammar above.
        AutocacheError: the file it names is missing or is not such a file.
    """
    text = text.strip()
    if text.lower().endswith((".yaml", ".yml")):
        return _read(Path(text).expanduser())
    name, colon, rest = text.partition(":")
    if not name.strip():
        raise ParameterError(f"AUTOCACHE={text}: expected a strategy name before the colon")
    parameters: dict[str, Any] = {}
    for item in _split(rest) if colon else ():
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ParameterError(
                f"AUTOCACHE={text}: expected key=value, got {item.strip()!r}; "
                "for example AUTOCACHE=teacache:threshold=0.1"
            )
        if key in parameters or key in _TAKEN:
            raise ParameterError(f"AUTOCACHE={text}: {key!r} is given twice")
        parameters[key] = _value(value, text)
    return Request(name.strip(), parameters)


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]{}":
            depth += 1 if character in "[{" else -1
        if character == "," and not depth and not quote:
            items.append("")
        else:
            items[-1] += character
    return items


def _value(value: str, text: str) -> Any:
    import yaml

    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ParameterError(f"AUTOCACHE={text}: {value!r} is not a YAML value") from error
    if isinstance(parsed, str):
        # YAML 1.1 takes 1e-3, without a point, for a word.
        with contextlib.suppress(ValueError):
            return float(parsed)
    return parsed


def _read(path: Path) -> Request:
    import yaml

    where = f"AUTOCACHE={path}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AutocacheError(f"{where}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise AutocacheError(f"{where}: not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("strategy"), str):
        raise AutocacheError(f"{where}: expected a mapping with `strategy: <name>`")
    for key in content:
        if key not in _KEYS:
            raise ParameterError(f"{where}: unknown key {key!r}{nearest(str(key), _KEYS)}")
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(key, str) for key in parameters):
        raise ParameterError(f"{where}: expected `parameters` to be a mapping of names to values")
    for key in _TAKEN:
        if key in parameters:
            raise ParameterError(f"{where}: {key!r} is no strategy parameter")
    return Request(content["strategy"], parameters)
