"""What a draft is asked for: a class, by name or by where it is used, and what its config is."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autocache.authoring.notation import imported
from autocache.errors import SpecError, UnknownModelError, nearest

COMPONENTS = ("transformer", "unet", "prior", "decoder")
"""The folders of a pipeline that hold a denoiser, most likely first."""

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A class of denoisers, the config of a checkpoint if there is one, and the live model."""

    cls: type[nn.Module]
    config: dict[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None

    @property
    def name(self) -> str:
        """`module:Class`, as specs write it."""
        return f"{self.cls.__module__}:{self.cls.__qualname__}"


def resolve(target: str | Path | type | nn.Module) -> Target:
    """Find the class. Raises UnknownModelError that says what was expected where there is none."""
    if isinstance(target, nn.Module):
        return Target(type(target), _config_of(target), target)
    if isinstance(target, type):
        return Target(_module_class(target, target.__name__))
    if not isinstance(target, str | Path):
        raise UnknownModelError(
            f"expected a class, its name, module:Class, a pipeline's directory or a model, not "
            f"{type(target).__name__}"
        )
    path = Path(target).expanduser()
    if path.is_dir():
        return _from_directory(path)
    if isinstance(target, Path) or "/" in target or "\\" in target:
        raise UnknownModelError(f"{target} is no directory")
    return Target(_by_name(str(target)))


def _by_name(name: str) -> type[nn.Module]:
    if ":" in name:
        try:
            return _module_class(imported(name, key=name), name)
        except SpecError as error:
            raise UnknownModelError(str(error)) from None
    known = _in_diffusers()
    if name not in known:
        denoisers = [other for other, module in known.items() if ".models." in module]
        raise UnknownModelError(
            f"diffusers has no class {name!r}{_near(name, denoisers)}; a class of another package "
            "is given as module:Class"
        )
    return _module_class(getattr(importlib.import_module(known[name]), name), name)


def _near(name: str, names: list[str]) -> str:
    near = nearest(name, names)
    return near if near.startswith("; did you mean") else ""


def _module_class(found: Any, name: str) -> type[nn.Module]:
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        what = (
            "a class" if isinstance(found, type) else f"an object of class {type(found).__name__}"
        )
        raise UnknownModelError(f"{name} is {what}, not a torch.nn.Module class")
    return found


@functools.cache
def _in_diffusers() -> dict[str, str]:
    """The module of every model class in diffusers, also those it does not export."""
    found = importlib.util.find_spec("diffusers")
    if found is None or not found.submodule_search_locations:
        raise UnknownModelError(
            "a class by its name alone is looked for in diffusers, which is "
            "not installed; give module:Class"
        )
    root = Path(next(iter(found.submodule_search_locations)))
    result: dict[str, str] = {}
    for folder in ("pipelines", "models"):
        for file in sorted((root / folder).rglob("*.py")):
            module = ".".join(("diffusers", *file.relative_to(root).with_suffix("").parts))
            for name in _CLASS.findall(file.read_text(encoding="utf-8")):
                result[name] = module
    return result


def _from_directory(path: Path) -> Target:
    index = path / "model_index.json"
    if not index.exists():
        if (path / "config.json").exists():
            return _from_config(path / "config.json", None)
        raise UnknownModelError(f"{path} has neither model_index.json nor config.json")
    listed = _read(index)
    names = [n for n in (*COMPONENTS, *listed) if (path / n / "config.json").exists()]
    denoisers = [name for name in dict.fromkeys(names) if _denoises(name, listed.get(name))]
    if not denoisers:
        raise UnknownModelError(
            f"{index} lists no denoiser with a config.json; expected one of the folders "
            f"{', '.join(COMPONENTS)}"
        )
    return _from_config(path / denoisers[0] / "config.json", listed.get(denoisers[0]))


def _denoises(name: str, listed: Any) -> bool:
    cls = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
    return name in COMPONENTS or bool(cls and re.search(r"Transformer\d|UNet|DiT", str(cls)))


def _from_config(file: Path, listed: Any) -> Target:
    config = _read(file)
    library, name = listed if isinstance(listed, list) and len(listed) == 2 else (None, None)
    name = config.get("_class_name") or name
    if not isinstance(name, str):
        raise UnknownModelError(f"{file} has no _class_name")
    own = library not in (None, "diffusers") and importlib.util.find_spec(str(library)) is not None
    try:
        cls = _by_name(f"{library}:{name}" if own else name)
    except UnknownModelError as error:
        raise UnknownModelError(f"{file}: {error}") from None
    return Target(cls, {k: v for k, v in config.items() if not k.startswith("_")})


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnknownModelError(f"{file}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UnknownModelError(f"{file}: expected a mapping, not {type(value).__name__}")
    return value


def _config_of(model: nn.Module) -> dict[str, Any]:
    """The constructor's arguments of a live model, as far as it remembers them."""
    config = getattr(model, "config", None)
    if isinstance(config, Mapping):
        known = inspect.signature(type(model)).parameters
        return {k: v for k, v in config.items() if not k.startswith("_") and k in known}
    return {}
