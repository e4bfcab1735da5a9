"""Names of a package whose modules are imported when they are first asked for.

A patch takes a few rules of many, and each that is imported adds to a program's start.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def look_up(package: str, homes: Mapping[str, str], name: str) -> Any:
    """What `package` calls `name`; `homes` gives for each name the module in it that has it.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
