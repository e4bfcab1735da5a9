"""Versions: what autocache requires of others, and what else has a part in a generation."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator
from importlib import metadata

from autocache import __version__
from autocache.cli.checks.finding import Finding

EXTRAS = ("report", "tune")
"""Those that commands of ours need."""
OTHERS = ("peft", "xformers", "flash-attn", "bitsandbytes", "torchao", "torch-npu")
"""Not required, and worth knowing of in a report of a bug."""

CACHES = {
    "cache-dit": "cache_dit.enable_cache",
    "DeepCache": "DeepCacheSDHelper.enable",
    "para-attn": "para_attn's apply_cache_on_pipe",
    "mindiesd": "mindiesd's CacheAgent",
}
"""Other cache libraries, and what of theirs may not be at work on a model that is patched."""

IMPORTED = ("torch", "diffusers", "diffusers.models.attention_processor")
"""The last imports xformers where that is installed, built for this torch or not."""


def versions() -> dict[str, str | None]:
    """The installed version of everything that matters, None where it is not installed."""
    required = (name for name, _ in _required())
    names = dict.fromkeys([*required, *_of_extras(), *OTHERS, *CACHES])
    found = {name: _version(name) for name in names}
    return {"python": platform.python_version(), "autocache": __version__, **found}


def findings() -> Iterator[Finding]:
    """What is missing, too old, cannot be imported, or had better not be used together."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("ok", "autocache", __version__)
    for name, needed in _required():
        yield _requirement(name, needed)
    if not _required():
        yield Finding("note", "autocache", "is not installed as a package: no versions to compare")
    for name, extra in _of_extras().items():
        version = _version(name)
        needed = f"is not installed; some commands need it: pip install 'autocache[{extra}]'"
        yield Finding("ok" if version else "note", name, version or needed)
    for name in OTHERS:
        if version := _version(name):
            yield Finding("ok", name, version)
    for name, call in CACHES.items():
        if version := _version(name):
            text = f"{version} caches as well: not on one model at once ({call})"
            yield Finding("note", name, text)
    yield from filter(None, map(_imported, IMPORTED))


def _required() -> list[tuple[str, str]]:
    """Name and version specifier of each requirement that is no extra's."""
    plain = (re.match(r"([\w.-]+)\s*(.*)", line) for line in _lines() if ";" not in line)
    return [(found[1], found[2]) for found in plain if found]


def _of_extras() -> dict[str, str]:
    """The extra that brings each package which a command needs that not everyone uses."""
    found = (re.match(r"([\w-]+).*; extra == ['\"](\w+)['\"]", line) for line in _lines())
    return {each[1]: each[2] for each in found if each and each[2] in EXTRAS}


def _lines() -> list[str]:
    try:
        return metadata.requires("autocache") or []
    except metadata.PackageNotFoundError:
        return []


def _requirement(name: str, needed: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    version = _version(name)
    remedy = f"pip install -U '{name}{needed}'"
    if version is None:
        return Finding("problem", name, "is not installed", remedy)
    # A build of one's own from the main branch is a pre-release.
    if not SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("problem", name, f"{version} does not satisfy {needed}", remedy)
    return Finding("ok", name, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _imported(name: str) -> Finding | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a package that does not fit this machine raises
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding("problem", name, f"cannot be imported: {words}", "reinstall what it names")
    return None
