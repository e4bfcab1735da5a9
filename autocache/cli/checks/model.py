"""Which spec matches a model, and whether the spec fits the class that is installed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autocache.authoring.target import resolve
from autocache.authoring.validate import check
from autocache.cli.checks.finding import Finding
from autocache.errors import AutocacheError, UnknownModelError
from autocache.spec import registry


def findings(given: str) -> Iterator[Finding]:
    """Of a class by name, or of every denoiser of the pipeline or model in a directory."""
    for target in _targets(given):
        yield from _of(target)


def _targets(given: str) -> list[str | Path]:
    """The denoisers' folders of a pipeline, else what was given."""
    index = Path(given).expanduser() / "model_index.json"
    if not index.is_file():
        return [given]
    try:
        listed: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return [given]
    folders = [index.parent / name for name in listed if _described(index.parent / name)]
    return list(folders) or [given]


def _described(folder: Path) -> bool:
    """Whether a component is of a class that a spec describes."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    try:
        cls = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        return False
    return any(info.name == cls for info in registry.specs())


def _of(target: str | Path) -> Iterator[Finding]:
    try:
        cls = resolve(target).cls
    except UnknownModelError as error:
        yield Finding("problem", str(target), str(error))
        return
    spec = registry.find(cls)
    qualified = f"{cls.__module__}:{cls.__qualname__}"
    if spec is None:
        remedy = f"`autocache specs draft {target}` drafts one, spec='auto' does so in memory"
        yield Finding("problem", qualified, "no spec describes it", remedy)
        return
    proven = f", proven on {spec.proof.package}" if spec.proof else ", not proven"
    yield Finding("ok", qualified, f"spec {spec.file}{proven}")
    yield from _misfits(spec)
    yield from _replaced(cls)


def _misfits(spec: Any) -> Iterator[Finding]:
    if spec.file is None:
        return
    try:
        problems = [problem for one in check([spec.file]) for problem in one.problems]
    except AutocacheError as error:
        problems = [str(error)]
    for problem in problems:
        yield Finding("problem", spec.name, problem)


def _replaced(cls: type) -> Iterator[Finding]:
    """A class whose forward another library put there, as forks of TeaCache do."""
    forward: Any = vars(cls).get("forward")
    written = inspect.getsourcefile(inspect.unwrap(forward)) if forward else None
    if written and written != inspect.getsourcefile(cls):
        yield Finding(
            "problem",
            cls.__name__,
            f"its forward is that of {written}",
            "take it off, or what autocache skips is not what runs",
        )
