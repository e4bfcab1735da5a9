"""What the start of an interpreter pays for autocache being installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

STATE = """
import json, sys
print(json.dumps({
    "modules": sorted(sys.modules),
    "finders": [getattr(finder, "__module__", "") for finder in sys.meta_path],
}))
"""
HEAVY = {"autocache", "torch", "wrapt", "diffusers", "yaml", "pydantic"}


def _state(run_python: Run, **environment: str) -> tuple[set[str], list[str]]:
    done = run_python("-c", STATE, **environment)
    assert done.stderr == ""
    state = json.loads(done.stdout)
    return set(state["modules"]), state["finders"]


def test_unset_imports_nothing(run_python: Run) -> None:
    """Without the variable not even the boot module is loaded, and no finder installed."""
    modules, finders = _state(run_python)
    # From 3.15 on, autocache.start imports the boot module in every start.
    assert not modules & HEAVY
    assert "_autocache_boot" not in finders


@pytest.mark.parametrize(
    "environment",
    [
        {"AUTOCACHE": "off"},
        {"AUTOCACHE": "0"},
        {"AUTOCACHE": "dit_block", "AUTOCACHE_DISABLE": "1"},
    ],
)
def test_off_installs_nothing(run_python: Run, environment: dict[str, str]) -> None:
    """Each way to say no leaves the import system alone."""
    modules, finders = _state(run_python, **environment)
    assert not modules & HEAVY
    assert "_autocache_boot" not in finders


def test_set_loads_one_small_module_and_waits(run_python: Run) -> None:
    """With the variable set, a program without torch pays one module and one finder, once."""
    unset, _ = _state(run_python)
    modules, finders = _state(run_python, AUTOCACHE="dit_block")
    assert modules - unset == {"_autocache_boot"} or modules == unset
    assert finders.count("_autocache_boot") == 1
