"""Which spec describes which class, and where the spec files are.

Imports neither torch nor pydantic nor yaml: the index is read when the interpreter starts.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import SpecError, UnknownModelError, nearest

if TYPE_CHECKING:
    from autocache.spec.schema import Spec

ENVIRONMENT = "AUTOCACHE_SPECS"
SUFFIXES = (".yaml", ".yml")
TIMESTEP_NAMES = ("timestep", "timesteps", "t")

_MODEL = re.compile(rb"^model:[ \t]*[\"']?([\w.]+:[\w.]+)", re.MULTILINE)


@dataclass(frozen=True)
class SpecInfo:
    """A known spec: the class name, its qualified name and the file that describes it."""

    name: str
    model: str
    file: Path


def directory() -> Path:
    """The folder of the bundled specs: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "model_specs"
    return installed if installed.is_dir() else package.parent / "model_specs"


def index() -> dict[str, Path]:
    """The spec file of every described class, keyed "module:Class".

    The directories in AUTOCACHE_SPECS go before the bundled specs. Only the `model:` line of
    each file is read. Raises SpecError when two files of one layer claim the same class, or
    when AUTOCACHE_SPECS names something that is no directory.
    """
    own = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    for path in own:
        if not path.is_dir():
            raise SpecError(f"{ENVIRONMENT} names {path}, which is not a directory")
    return {**_layer([directory()]), **_layer(own)}


def specs() -> list[SpecInfo]:
    """Every known spec, sorted by class name. Raises SpecError as `index` does."""
    known = (SpecInfo(model.rpartition(":")[2], model, file) for model, file in index().items())
    return sorted(known, key=lambda info: (info.name, info.model))


def find(model: object) -> Spec | None:
    """The spec of a model or model class, by qualified name along its bases; None without one.

    Raises SpecError when the spec's file is malformed.
    """
    cls = model if isinstance(model, type) else type(model)
    known = index()
    for base in cls.__mro__:
        file = known.get(_qualified(base))
        if file is not None:
            return _load(file)
    return None


def resolve(spec: str | Path | Spec | None, model: object) -> Spec:
    """The given spec (itself, a file, or the name of a known one), or the model's own.

    Raises UnknownModelError when nothing describes the model or no spec has the given name,
    SpecError when the file cannot be read or is malformed.
    """
    if spec is None:
        found = find(model)
        if found is None:
            raise _undescribed(model if isinstance(model, type) else type(model))
        return found
    if isinstance(spec, str):
        return _named(spec)
    return _load(spec) if isinstance(spec, Path) else spec


def bare(model: object) -> Spec:
    """What can be said of a model nobody has described: the name of its timestep argument.

    Raises UnknownModelError when not even that can be found.
    """
    import inspect

    from autocache.spec.schema import Spec

    cls = type(model)
    forward: Any = getattr(cls, "forward", cls)
    names = inspect.signature(forward).parameters
    for timestep in TIMESTEP_NAMES:
        if timestep in names:
            return Spec.model_construct(schema_=1, model=_qualified(cls), timestep=timestep)
    raise _undescribed(cls)


def _named(spec: str) -> Spec:
    known = index()
    for model, file in known.items():
        if spec in (model, model.rpartition(":")[2]):
            return _load(file)
    if spec.endswith(SUFFIXES) or Path(spec).exists():
        return _load(Path(spec))
    names = [model.rpartition(":")[2] for model in known]
    raise UnknownModelError(f"no spec is called {spec!r}, and no such file{nearest(spec, names)}")


def _undescribed(cls: type) -> UnknownModelError:
    names = [model.rpartition(":")[2] for model in index()]
    return UnknownModelError(
        f"no spec describes {_qualified(cls)}{nearest(cls.__qualname__, names)}\n"
        f"describe it in {cls.__name__}.yaml and pass spec=<path to it>, for example:\n"
        f'{{schema: 1, model: "{_qualified(cls)}", stacks: [{{path: blocks, block: Block,'
        " streams: [hidden_states], returns: hidden_states}]}"
    )


def _qualified(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _layer(directories: Iterable[Path]) -> dict[str, Path]:
    claims: dict[str, Path] = {}
    for file in (file for folder in directories for file in _files(folder)):
        try:
            found = _MODEL.search(file.read_bytes())
        except OSError as error:
            raise SpecError(f"{file}:1:1: cannot read the file: {error.strerror}") from None
        if not found:
            continue
        model = found[1].decode()
        if model in claims:
            raise SpecError(f"{claims[model]} and {file} both describe {model}; remove one of them")
        claims[model] = file
    return claims


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def _load(file: Path) -> Spec:
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _cached(file, changed)


@functools.cache
def _cached(file: Path, changed: int) -> Any:
    from autocache.spec.loader import load

    return load(file)
