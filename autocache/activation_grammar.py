"""What the value of AUTOCACHE means: strategies, with or without parameters, or a profile.

    AUTOCACHE=teacache
    AUTOCACHE=teacache:threshold=0.1,warmup_steps=2
    AUTOCACHE=attention:kinds=[self,cross],step_interval=2
    AUTOCACHE=teacache:threshold=0.1+invariant
    AUTOCACHE=fast.yaml

A value is a YAML scalar or a YAML list in brackets. A plus sign, outside brackets and quotes and
not before a digit, goes on to the next strategy. Parameters are the keyword arguments of
`autocache.patch`, hence `dry_run=true` and `memory_limit=...` are among them, behind whichever
strategy. Whether names exist is not decided here: `autocache.patch` does, when there is a model.
A value that ends in .yaml is a profile's file (`autocache.Profile`).
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autocache.errors import ParameterError

if TYPE_CHECKING:
    from autocache.tuning.profile import Profile

FILES = (".yaml", ".yml")
"""How the name of a profile's file ends."""

_TAKEN = ("target", "strategy")
FOR_ALL = ("spec", "enabled", "dry_run", "memory_limit", "memory_fit", "keep")
"""Keyword arguments of `autocache.patch` that are no strategy's."""

Named = tuple[str, dict[str, Any]]
"""A strategy's name with its parameters."""


@dataclass(frozen=True)
class Request:
    """What goes to `autocache.patch`: a strategy's name, or several each with its parameters, or a
    profile, and the keyword arguments beside it."""

    strategy: str | list[Named] | Profile
    parameters: dict[str, Any] = field(default_factory=dict)


def off(text: str) -> bool:
    """Whether a value of AUTOCACHE asks for nothing, as the start-up hook sees it."""
    return text.strip().lower() in ("", "off", "0")


def parse(text: str) -> Request:
    """The request a value of AUTOCACHE stands for.

    Raises:
        ParameterError: the value does not follow the grammar above.
        ProfileError: the file it names cannot be read or is no profile.
    """
    text = text.strip()
    if text.lower().endswith(FILES):
        return Request(_profile(text))
    named = [_named(one, text) for one in _split(text, "+")]
    if len(named) == 1:
        return Request(*named[0])
    options: dict[str, Any] = {}
    for _, parameters in named:
        for key in [key for key in parameters if key in FOR_ALL]:
            if key in options:
                raise ParameterError(f"AUTOCACHE={text}: {key!r} is given twice")
            options[key] = parameters.pop(key)
    return Request(named, options)


def with_parameters(text: str, items: Sequence[str]) -> str:
    """A value of AUTOCACHE with more parameters, each `key=value` with any YAML as its value.

    Raises:
        ParameterError: an item has no such form, or of several strategies none is the one meant.
    """
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ParameterError(f"--param {item}: expected KEY=VALUE")
        if len(_split(text, "+")) > 1 and key not in FOR_ALL:
            raise ParameterError(
                f"--param {item}: which of {text}? Put it behind its strategy, as in "
                f"{_split(text, '+')[0].partition(':')[0]}:{item}"
            )
        separates = any(len(_split(value, sign)) > 1 for sign in ",+")
        last = _split(text, "+")[-1]
        text += f"{',' if ':' in last else ':'}{key}={json.dumps(value) if separates else value}"
    return text


def _profile(path: str) -> Profile:
    """The profile in a file, which every model of a program asks for: read when it has changed."""
    from pathlib import Path

    state = None
    with contextlib.suppress(OSError):
        found = Path(path).expanduser().stat()
        state = found.st_ino, found.st_size, found.st_mtime_ns
    return _read(path, state)


@functools.lru_cache(maxsize=4)
def _read(path: str, state: object) -> Profile:
    from autocache.tuning.profile import Profile

    return Profile.read(path)


def _named(text: str, whole: str) -> Named:
    """One strategy with its parameters."""
    name, colon, rest = text.partition(":")
    if not name.strip():
        before = "before the colon" if colon else "at each side of a plus sign"
        raise ParameterError(f"AUTOCACHE={whole}: expected a strategy name {before}")
    parameters: dict[str, Any] = {}
    for item in _split(rest, ",") if colon else ():
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ParameterError(
                f"AUTOCACHE={whole}: expected key=value, got {item.strip()!r}; "
                "for example AUTOCACHE=teacache:threshold=0.1"
            )
        if key in parameters or key in _TAKEN:
            raise ParameterError(f"AUTOCACHE={whole}: {key!r} is given twice")
        parameters[key] = _value(value, whole)
    return name.strip(), parameters


def _split(text: str, separator: str) -> list[str]:
    """Split outside brackets and quotes, but not at the sign of a number."""
    items, depth, quote = [""], 0, ""
    for character, after in zip(text, text[1:] + " ", strict=False):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]{}":
            depth += 1 if character in "[{" else -1
        sign = character == "+" and (after.isdigit() or after == ".")
        if character == separator and not depth and not quote and not sign:
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
