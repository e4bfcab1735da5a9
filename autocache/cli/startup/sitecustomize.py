"""Activation where autocache.pth is not installed: `autocache run` puts this folder on PYTHONPATH.

Interpreters that the program starts inherit it. A `sitecustomize` of the user's own runs as well.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

HERE = str(Path(__file__).parent)
PACKAGE = str(Path(__file__).parents[3])
"""Where autocache itself is imported from."""


def _activate() -> None:
    if os.environ.get("AUTOCACHE", "").strip().lower() in ("", "off", "0"):
        return
    if os.environ.get("AUTOCACHE_DISABLE", "") not in ("", "0"):
        return
    try:
        if importlib.util.find_spec("autocache") is None:
            sys.path.append(PACKAGE)
        from autocache import activation, activation_unmet

        activation_unmet.watch()
        activation.install()
    except Exception as error:  # never the end of an interpreter that has other things to do
        print(f"autocache: not active: {type(error).__name__}: {error}", file=sys.stderr)


def _covered() -> None:
    """Run the `sitecustomize` that would have been found without this one."""
    sys.path[:] = [folder for folder in sys.path if folder != HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_activate()
_covered()
