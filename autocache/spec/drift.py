"""What changed in a package since a spec was proven on it."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence

from autocache.spec.facts import Location
from autocache.spec.proof import Proof
from autocache.spec.schema import Spec

logger = logging.getLogger("autocache")


def changes(spec: Spec, live: Mapping[type, tuple[str, ...]]) -> list[str]:
    """How the forwards of the live block classes, given with the names of their arguments, differ
    from those the spec was proven on."""
    then = spec.proof.signatures if spec.proof else {}
    found = []
    for cls, now in live.items():
        # Of a derived class the arguments of the class it derives from are recorded.
        known = next((base.__name__ for base in cls.__mro__ if base.__name__ in then), None)
        if known is not None and tuple(then[known]) != now:
            found.append(f"{cls.__name__}.forward {_difference(then[known], now)}")
    return found


def blame(spec: Spec, changed: Sequence[str]) -> Iterator[tuple[Location, str]]:
    """What may be why facts do not hold, and what to do; nothing when all is as it was."""
    if spec.proof is None:
        return
    package, then, now = _versions(spec.proof)
    if changed or now not in (None, then):
        yield (
            ("proof", "package"),
            f"{_sentence(package, then, now, changed)}; `autocache specs verify {spec.name}` says "
            f"what no longer holds, `autocache specs draft {spec.model}` drafts the spec anew",
        )


def warn(spec: Spec, changed: Sequence[str]) -> None:
    """Say in the log that forwards changed, though every name the spec uses is still there."""
    if spec.proof is not None and changed:
        text = _sentence(*_versions(spec.proof), changed)
        _warn(f"spec of {spec.name}: {text}; all that the spec names is still there")


@functools.cache
def _warn(text: str) -> None:
    # Once: a pipeline may have several denoisers of one class, and be patched often.
    logger.warning("%s", text)


def _sentence(package: str, then: str, now: str | None, changed: Sequence[str]) -> str:
    installed = f"; {now} is installed" if now not in (None, then) else ""
    what = f": {'; '.join(changed)}" if changed else ""
    return f"proven on {package} {then}{installed}{what}"


def _versions(proof: Proof) -> tuple[str, str, str | None]:
    """The package, its version when the spec was proven, and the installed one."""
    package, _, then = proof.package.partition(" ")
    try:
        return package, then, importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return package, then, None


def _difference(then: Sequence[str], now: Sequence[str]) -> str:
    gone = [name for name in then if name not in now]
    new = [name for name in now if name not in then]
    renamed = [
        (old, name) for old, name in zip(then, now, strict=False) if old in gone and name in new
    ]
    parts = [f"calls {old!r} now {name!r}" for old, name in renamed]
    dropped = [name for name in gone if name not in dict(renamed)]
    added = [name for name in new if name not in dict(renamed).values()]
    parts += [f"no longer takes {_listed(dropped)}"] if dropped else []
    parts += [f"also takes {_listed(added)}"] if added else []
    return " and ".join(parts) or f"takes its arguments in another order ({', '.join(now)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
