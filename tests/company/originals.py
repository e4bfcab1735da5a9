"""The classes of other libraries as they were before anything was patched."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.tiny_pipelines import denoisers

LIBRARIES = ("accelerate", "diffusers", "peft", "torch", "transformers")


class Originals:
    """What every loaded class of theirs had in it when this was made."""

    def __init__(self) -> None:
        modules = [m for name, m in sys.modules.items() if name.split(".")[0] in LIBRARIES]
        members = (member for module in modules for member in list(vars(module).values()))
        classes = {cls for cls in members if isinstance(cls, type)}
        self._had = {cls: dict(vars(cls)) for cls in classes}

    def changed(self, classes: Iterable[type] | None = None) -> list[str]:
        """The methods that are others now, of all classes or of these."""
        return [
            f"{cls.__qualname__}.{name}"
            for cls in (self._had if classes is None else classes)
            if cls in self._had
            for name, (before, now) in _pairs(self._had[cls], dict(vars(cls)))
            if before is not now and (hasattr(before, "__get__") or hasattr(now, "__get__"))
        ]


def _pairs(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in before.keys() | now.keys():
        yield name, (before.get(name), now.get(name))


def classes_of(target: Any) -> set[type]:
    """All classes that a target, its scheduler and the modules of its denoisers are made of."""
    things = [target, getattr(target, "scheduler", None)]
    things += [module for model in denoisers(target) for module in model.modules()]
    return {base for cls in {type(thing) for thing in things} for base in cls.__mro__}
