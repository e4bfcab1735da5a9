"""A short name for a configuration: equal for equal ones, however and by which version written."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from autocache.targets import config_of

NOT_BUILT = ("dtype", "quantization_config", "torch_dtype", "transformers_version")
"""Keys that say how a model is kept, not what it is."""

LENGTH = 12
"""Hexadecimal digits: 48 bits, ample to tell configurations of one class apart."""


def fingerprint(built: object) -> str | None:
    """The fingerprint of the configuration of a model or a scheduler; None where it has none.

    What counts is what the class's constructor takes, where the configuration names that, and is
    not its default: a later version may take more. Keys with a leading underscore and the like
    (versions, names, paths, number formats) say nothing of what is built.
    """
    config = config_of(built)
    if not config:
        return None
    parameters = _parameters(type(built))
    named = parameters.keys() & config.keys()
    told = {
        key: _plain(value)
        for key, value in config.items()
        if (key in named or not named)
        and not key.startswith("_")
        and key not in NOT_BUILT
        and (key not in parameters or parameters[key] != [_plain(value)])
    }
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _parameters(cls: type) -> dict[str, list[Any]]:
    """What the constructor takes, each with its default in a list, empty where it has none."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: [] if p.default is p.empty else [_plain(p.default)] for p in parameters}


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
