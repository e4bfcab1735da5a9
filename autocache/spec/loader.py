"""Reading a spec file; every problem is reported at once, each with its position."""

from __future__ import annotations

from pathlib import Path

from autocache.errors import SpecError
from autocache.spec.document import MAX_PROBLEMS, Document, parse, read
from autocache.spec.explain import explain
from autocache.spec.facts import Location
from autocache.spec.schema import Spec


def load(path: str | Path) -> Spec:
    """Read, check and return the spec in a YAML file.

    Raises SpecError for anything wrong with the file, one line `file:line:column: message` per
    problem.
    """
    document = read(Path(path))
    spec = _checked(document)
    spec._file = document.path
    spec._marks = document.marks
    return spec


def loads(text: str, name: str) -> Spec:
    """As `load`, of text that is in no file; `name` stands for the file in errors."""
    return _checked(parse(text, Path(name)))


def _checked(document: Document) -> Spec:
    from pydantic import ValidationError

    try:
        spec = Spec.model_validate(document.value)
    except ValidationError as error:
        raise _error([*document.problems, *explain(error, document)]) from None
    problems = [*document.problems, *_misnamed(spec, document)]
    if problems:
        raise _error(problems)
    return spec


def line_of(source: Spec | str | Path, *location: str | int) -> str:
    """`file:line:column` of a location in a spec, or of its nearest enclosing part.

    A spec that came from no file has no lines; its name and the location stand in for them.
    Raises SpecError when `source` is a path that cannot be read.
    """
    if not isinstance(source, Spec):
        return read(Path(source)).position(location)
    if source.file is None:
        return f"<spec {source.name}>:{'.'.join(map(str, location))}"
    return Document(source.file, None, source._marks, []).position(location)


def _misnamed(spec: Spec, document: Document) -> list[str]:
    if document.path.stem == spec.name:
        return []
    where: Location = ("model",)
    return [
        f"{document.position(where)}: the file is called {document.path.stem!r}"
        f" but describes {spec.name!r}; expected the name {spec.name}.yaml"
    ]


def _error(problems: list[str]) -> SpecError:
    # Rubbish has no end of problems, and they may quote it.
    lines = [line if len(line) <= 1000 else line[:1000] + "..." for line in problems]
    return SpecError("\n".join(lines[:MAX_PROBLEMS]))
