"""Run a function right after a module has been imported, with the standard library only.

wrapt has such a hook as well, but importing wrapt costs every start of the interpreter 65 ms, and
an exception in its hook makes the user's import fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class _HookedLoader(Loader):
    """Loads as the original loader does, gives the module back to it, then runs the hook."""

    def __init__(self, loader: Any, hook: Hook) -> None:
        self.loader = loader
        self.hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # inspect, pickle and importlib.resources ask the module for its loader later on.
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        run(self.hook, module)


class ModuleWatch(MetaPathFinder):
    """Finds the watched modules as the other finders do, and hooks their loader."""

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self.hooks = dict(hooks)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec another finder gives, with the hook in its loader; None if not watched."""
        hook = self.hooks.get(name)
        if hook is None:
            return None
        for finder in sys.meta_path:
            look_up = None if finder is self else getattr(finder, "find_spec", None)
            spec = look_up(name, path, target) if look_up else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _HookedLoader(spec.loader, hook)
                return spec
        return None


def watch(hooks: Mapping[str, Hook]) -> None:
    """Run `hooks[name](module)` when a module is imported, at once for those that already are."""
    sys.meta_path.insert(0, ModuleWatch(hooks))
    for name, hook in hooks.items():
        module = sys.modules.get(name)
        if module is not None:
            run(hook, module)


def run(hook: Hook, module: ModuleType) -> None:
    """Run a hook; its failure is one line on stderr and never breaks the import."""
    try:
        hook(module)
    except Exception as error:
        print(
            f"autocache: {module.__name__} not watched: {type(error).__name__}: {error}",
            file=sys.stderr,
            flush=True,
        )
