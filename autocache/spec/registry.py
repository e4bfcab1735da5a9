"""Which spec describes which class, and where the spec files are.

Imports neither torch nor pydantic nor yaml: the index is read when the interpreter starts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import SpecError, UnknownModelError, nearest
from autocache.spec.layers import ENVIRONMENT, SUFFIXES, Layer, layers
from autocache.spec.layers import directory as directory

if TYPE_CHECKING:
    from autocache.spec.schema import Spec

AUTO = "auto"
"""In place of a spec: draft one in memory where none is known."""

TIMESTEP_NAMES = ("timestep", "timesteps", "t")


@dataclass(frozen=True)
class SpecInfo:
    """A known spec: the class name, its qualified name, the file that describes it, and whence."""

    name: str
    model: str
    file: Path
    layer: Layer


def index() -> dict[str, Path]:
    """The spec file of every described class, keyed "module:Class".

    The directories in AUTOCACHE_SPECS go before those that installed packages name as entry points
    of the group `autocache.specs`, and these before the bundled specs. Raises SpecError when two
    files of one layer claim the same class, or when something that should be a directory is none.
    """
    return {model: info.file for model, info in _known().items()}


def specs() -> list[SpecInfo]:
    """Every known spec, sorted by class name. Raises SpecError as `index` does."""
    return sorted(_known().values(), key=lambda info: (info.name, info.model))


def _known() -> dict[str, SpecInfo]:
    return {
        model: SpecInfo(model.rpartition(":")[2], model, file, layer)
        for layer, claims in reversed(layers())
        for model, file in claims.items()
    }


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

    "auto" is the model's own too, and one drafted in memory where it has none.

    Raises UnknownModelError when nothing describes the model, no spec has the given name, or none
    can be drafted; SpecError when the file cannot be read or is malformed, or a draft is wrong.
    """
    if spec is None:
        found = find(model)
        if found is None:
            raise _undescribed(model if isinstance(model, type) else type(model))
        return found
    if spec == AUTO:
        from autocache.authoring.auto import auto

        return find(model) or auto(model)
    if isinstance(spec, str):
        return _named(spec)
    return _load(spec) if isinstance(spec, Path) else spec


def same(spec: Spec) -> Spec:
    """The facts of the spec that a `same_as` names, for its own class; their file is as it was.

    Raises SpecError when no spec is known by that name, or it names another one in turn.
    """
    from autocache.spec.loader import line_of

    known, model = _known(), str(spec.same_as)
    where = line_of(spec, "same_as")
    if model not in known:
        raise SpecError(f"{where}: no spec describes {model}{nearest(model, known)}")
    facts = _read(known[model].file)
    if facts.same_as is not None:
        raise SpecError(f"{where}: {model} is itself the same as {facts.same_as}; name that one")
    return facts.model_copy(update={"model": spec.model})


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


def named(name: str) -> SpecInfo | None:
    """The known spec of that class name or qualified class name; None without one.

    Raises UnknownModelError when classes of several modules have that name.
    """
    known = _known()
    if name in known:
        return known[name]
    found = [info for info in known.values() if info.name == name]
    if len(found) > 1:
        which = ", ".join(f"{info.model} ({info.file})" for info in found)
        raise UnknownModelError(f"several specs are called {name!r}: {which}; give one in full")
    return found[0] if found else None


def _named(spec: str) -> Spec:
    known = named(spec)
    if known is not None:
        return _load(known.file)
    if spec.endswith(SUFFIXES) or Path(spec).exists():
        return _load(Path(spec))
    names = {info.name for info in specs()}
    raise UnknownModelError(f"no spec is called {spec!r}, and no such file{nearest(spec, names)}")


def _undescribed(cls: type) -> UnknownModelError:
    names = [model.rpartition(":")[2] for model in index()]
    return UnknownModelError(
        f"no spec describes {_qualified(cls)}{_near(cls.__qualname__, names)}\n"
        f"draft one with `autocache specs draft {_qualified(cls)} -o {cls.__name__}.yaml`, answer "
        f"its questions and pass spec={cls.__name__ + '.yaml'!r} or set {ENVIRONMENT} to its "
        f"directory; or pass spec={AUTO!r}, which drafts and proves one in memory"
    )


def _near(name: str, names: list[str]) -> str:
    # Without a near one all of them would be listed.
    near = nearest(name, names)
    return near if near.startswith("; did you mean") else ""


def _qualified(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _load(file: Path) -> Spec:
    spec = _read(file)
    return spec if spec.same_as is None else same(spec)


def _read(file: Path) -> Spec:
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _cached(file, changed)


@functools.cache
def _cached(file: Path, changed: int) -> Any:
    from autocache.spec.loader import load

    return load(file)
