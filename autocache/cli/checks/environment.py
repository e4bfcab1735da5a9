"""Whether activation is live, and whether what the variables say can be done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from autocache.activation_grammar import off
from autocache.cli import asked, hook
from autocache.cli.checks.finding import Finding
from autocache.errors import AutocacheError, nearest
from autocache.log import LEVELS
from autocache.spec import registry

VARIABLES = (
    "AUTOCACHE",
    "AUTOCACHE_DISABLE",
    "AUTOCACHE_LOG",
    "AUTOCACHE_REPORT",
    "AUTOCACHE_SPECS",
    "AUTOCACHE_STATS",
)
OUTPUTS = ("AUTOCACHE_REPORT", "AUTOCACHE_STATS")
ELSEWHERE = ("AUTOCACHE_TEST_",)
"""Beginnings of variables that are not for users."""


def variables() -> dict[str, str]:
    """Every variable that is set and is ours, or looks as if it were meant to be."""
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith("AUTOCACHE")}


def findings() -> Iterator[Finding]:
    """The start-up hook, and each variable that is set."""
    if hook.live():
        yield Finding("ok", "activation", "autocache.pth is live: AUTOCACHE=... acts on any script")
    else:
        remedy = "use `autocache run script.py`, or reinstall autocache into this environment"
        yield Finding("problem", "activation", "autocache.pth is not at work here", remedy)
    given = variables()
    problems = list(_problems(given))
    wrong = {problem.subject for problem in problems}
    for name, value in given.items():
        if name in VARIABLES and name not in wrong:
            yield Finding("ok", name, value)
    yield from problems
    yield from _specs()


def _problems(given: dict[str, str]) -> Iterator[Finding]:
    for name in given:
        if name not in VARIABLES and not name.startswith(ELSEWHERE):
            yield Finding("problem", name, f"no such variable{nearest(name, VARIABLES)}")
    yield from _request(given)
    yield from _outputs(given)
    level = given.get("AUTOCACHE_LOG", "").lower()
    if level and level not in LEVELS:
        yield Finding("problem", "AUTOCACHE_LOG", f"no level{nearest(level, LEVELS)}")


def _request(given: dict[str, str]) -> Iterator[Finding]:
    text = given.get("AUTOCACHE", "")
    if off(text):
        return
    try:
        asked.check(text)
    except AutocacheError as error:
        yield Finding("problem", "AUTOCACHE", f"{text}: {error}")
    if given.get("AUTOCACHE_DISABLE", "") not in ("", "0"):
        yield Finding(
            "problem", "AUTOCACHE_DISABLE", "is set, so AUTOCACHE does nothing", "unset one of them"
        )


def _outputs(given: dict[str, str]) -> Iterator[Finding]:
    for name in OUTPUTS:
        if not given.get(name):
            continue
        folder = Path(given[name]).absolute().parent
        # What writes the file makes the folders above it.
        while not folder.exists():
            folder = folder.parent
        writable = folder.is_dir() and os.access(folder, os.W_OK)
        if not writable or Path(given[name]).is_dir():
            yield Finding("problem", name, f"cannot write {given[name]}")


def _specs() -> Iterator[Finding]:
    try:
        found = registry.specs()
    except AutocacheError as error:
        yield Finding("problem", "specs", str(error))
        return
    own = sum(info.layer != "bundled" for info in found)
    yield Finding("ok", "specs", f"{len(found)} models are described, {own} by specs of your own")
    for info in found:
        if info.layer == "bundled":
            continue
        try:
            registry.resolve(info.file, None)
        except AutocacheError as error:
            yield Finding("problem", info.name, str(error))
