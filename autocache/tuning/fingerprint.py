"""A short name for a configuration: equal for equal ones, however and by which version written."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from autocache.targets import config_of

LENGTH = 12
"""Hexadecimal digits: 48 bits, ample to tell configurations of one class apart."""


def fingerprint(built: object) -> str | None:
    """The fingerprint of the configuration of a model or a scheduler; None where it has none.

    Left out are keys with a leading underscore (versions, names, paths), and values that are the
    default of the class's constructor: a later version may have more of them.
    """
    config = config_of(built)
    if not config:
        return None
    defaults = _defaults(type(built))
    told = {
        key: _plain(value)
        for key, value in config.items()
        if not key.startswith("_") and not (key in defaults and defaults[key] == _plain(value))
    }
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: _plain(p.default) for p in parameters if p.default is not p.empty}


def _plain(value: Any) -> Any:
    """The value as JSON has it: a tuple is a list, a whole number one number however written."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    # What else a configuration may hold has no text of its own that lasts from run to run.
    return type(value).__qualname__
