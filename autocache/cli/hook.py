"""Whether interpreters that start here see AUTOCACHE, and how to start one that does regardless."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

STARTUP = Path(__file__).with_name("startup")
"""A folder for PYTHONPATH whose `sitecustomize` does what the installed autocache.pth does."""

_ASK = "import sys; sys.exit('_autocache_boot' not in sys.modules)"


@functools.cache
def live() -> bool:
    """Whether the start-up hook runs in an interpreter started as this one: it is asked."""
    environment = dict(os.environ) | {"AUTOCACHE": "auto"}
    environment.pop("AUTOCACHE_DISABLE", None)
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env=environment, capture_output=True, check=False
    )
    return done.returncode == 0


def started_without(environment: dict[str, str]) -> dict[str, str]:
    """The environment of an interpreter, and of those it starts, that is to do without the hook."""
    others = environment.get("PYTHONPATH", "")
    path = os.pathsep.join([str(STARTUP), others] if others else [str(STARTUP)])
    return environment | {"PYTHONPATH": path}
