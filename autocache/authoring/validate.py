"""Checking spec files: every problem of every file at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autocache.authoring import names
from autocache.errors import SpecError
from autocache.spec import layers, registry
from autocache.spec.loader import line_of, load
from autocache.spec.schema import Spec

Given = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class Checked:
    """One file: its problems, one line `file:line:column: message` each, and a note on what could
    not be looked at."""

    file: Path
    problems: tuple[str, ...]
    note: str = ""


def validate(paths: Given) -> list[str]:
    """Everything that is wrong with spec files, one line `file:line:column: message` each.

    Checked are the format, that no two of the files describe one class, and that what a spec names
    exists: classes, modules, arguments, pipelines, strategies, parameters, as far as the package of
    its class is installed. Of a directory all specs directly in it are checked. An empty list means
    that all is well.
    """
    return [problem for checked in check(paths) for problem in checked.problems]


def check(paths: Given) -> list[Checked]:
    """As `validate`, file by file."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = list(dict.fromkeys(file for path in given for file in _files(Path(path))))
    loaded = {file: _loaded(file) for file in files}
    specs = {file: spec for file, spec in loaded.items() if isinstance(spec, Spec)}
    conflicts = _conflicts(specs)
    found = []
    for file, spec in loaded.items():
        if not isinstance(spec, Spec):
            found.append(Checked(file, tuple(spec)))
            continue
        lines = [*conflicts.get(file, []), *_facts(spec, specs)]
        found.append(Checked(file, tuple(sorted(lines, key=_place)), _note(spec)))
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    # As in a directory of AUTOCACHE_SPECS, YAML that is no spec is left alone.
    for file in layers.files_in(path):
        if _is_spec(file):
            yield file


def _is_spec(file: Path) -> bool:
    try:
        return layers.model_of(file) is not None
    except SpecError:
        return True


def _loaded(file: Path) -> Spec | list[str]:
    try:
        return load(file)
    except SpecError as error:
        return str(error).splitlines()


def _conflicts(specs: dict[Path, Spec]) -> dict[Path, list[str]]:
    first: dict[str, Spec] = {}
    found: dict[Path, list[str]] = {}
    for file, spec in specs.items():
        other = first.setdefault(spec.model, spec)
        if other is not spec:
            message = f"{spec.model} is also described in {line_of(other, 'model')}; remove one"
            found[file] = [f"{line_of(spec, 'model')}: {message}"]
    return found


def _facts(spec: Spec, specs: dict[Path, Spec]) -> list[str]:
    if spec.same_as is None:
        return names.problems(spec)
    if any(other.model == spec.same_as and other.same_as is None for other in specs.values()):
        return []
    try:
        registry.same(spec)
    except SpecError as error:
        return str(error).splitlines()
    return []


def _note(spec: Spec) -> str:
    if names.installed(spec):
        return ""
    package = spec.model.partition(":")[0].partition(".")[0]
    return f"{package} is not installed, so what the spec names in it was not looked up"


def _place(line: str) -> tuple[int, int]:
    found = re.search(r":(\d+):(\d+): ", line)
    return (int(found[1]), int(found[2])) if found else (0, 0)
