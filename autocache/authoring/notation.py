"""The notation for values in the `proof` of a spec: tensors and objects, described in YAML."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autocache.errors import SpecError, nearest
from autocache.spec.flow import reach

TENSOR_KEYS = ("shape", "value", "values", "below", "dtype")
FILLINGS = ("value", "values", "below")
OBJECT_KEYS = ("class", "config", "attributes")
Build = Callable[[str, dict[str, Any]], Any]
"""Makes an object from what `class` says and the arguments `config`."""


def value(
    description: Any,
    *,
    key: str = "value",
    seed: int = 0,
    build: Build | None = None,
    config: bool = False,
) -> Any:
    """What a description stands for; equal arguments give equal values, in fresh objects.

    A mapping with `shape` is a tensor, see `tensor`. One with `class` (`module:Class`, or as
    `build` understands it) is an object built with the arguments `config`, described likewise; a
    module is given weights and set to evaluation; `attributes` are set on it then, by their paths.
    One with only `tuple` is a tuple. Lists and other mappings are gone through; a key of digits
    only is a number, but not in a `config`, which is JSON. Anything else is itself.

    Raises SpecError that names the key when a description makes no sense.
    """

    def inner(item: Any, place: str) -> Any:
        return value(item, key=place, seed=seed, build=build, config=config)

    if isinstance(description, list):
        return [inner(item, f"{key}[{index}]") for index, item in enumerate(description)]
    if not isinstance(description, Mapping):
        return description
    if "shape" in description:
        return tensor(description, key=key, seed=seed)
    if "class" in description:
        return _object(description, key, seed, build or _build)
    if set(description) == {"tuple"}:
        return tuple(inner(description["tuple"], key))
    return {
        int(name) if name.isdecimal() and not config else name: inner(item, f"{key}.{name}")
        for name, item in description.items()
    }


def tensor(description: Mapping[str, Any], *, key: str = "value", seed: int = 0) -> torch.Tensor:
    """A tensor of `shape`: standard normal, or `value` everywhere, or `values` in order, or
    integers from 0 up to `below`; of `dtype`, float32 unless said otherwise.

    What is random depends on the key and the seed alone. Raises SpecError that names the key.
    """
    for name in description:
        if name not in TENSOR_KEYS:
            raise SpecError(f"{key}: a tensor has no {name!r}{nearest(name, TENSOR_KEYS)}")
    given = [name for name in FILLINGS if name in description]
    if len(given) > 1:
        raise SpecError(f"{key}: give one of {', '.join(FILLINGS)}, not {' and '.join(given)}")
    shape, dtype = _shape(description["shape"], key), _dtype(description, key)
    generator = torch.Generator().manual_seed(seed + zlib.crc32(key.encode()))
    try:
        if "value" in description:
            return torch.full(shape, description["value"], dtype=dtype)
        if "values" in description:
            return torch.tensor(description["values"], dtype=dtype).reshape(shape)
        if "below" in description:
            limit = int(description["below"])
            return torch.randint(limit, shape, generator=generator).to(dtype)
        real = dtype.is_floating_point or dtype.is_complex
        if not real:
            raise TypeError(f"{dtype} has no normal distribution; give value, values or below")
        return torch.randn(shape, generator=generator, dtype=dtype)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SpecError(f"{key}: no tensor of shape {list(shape)}: {error}") from None


def imported(name: str, *, key: str = "class") -> Any:
    """What `module:Name` stands for. Raises SpecError that names the key."""
    module, colon, path = name.partition(":")
    if not colon:
        raise SpecError(f"{key}: expected 'module:Class', not {name!r}")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise SpecError(f"{key}: cannot import {module}: {error}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            near = nearest(part, names) if len(names) < 500 else ""
            raise SpecError(f"{key}: {module} has no {path!r}{near}")
        found = getattr(found, part)
    return found


def constructed(cls: Callable[..., Any], config: Mapping[str, Any], *, seed: int, key: str) -> Any:
    """An object of a class, deterministic; a module with weights that hide no mistake, frozen.

    Raises SpecError that names the key when the constructor does not take the arguments.
    """
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Memory that a constructor does not initialise comes filled with NaN, so it can be seen.
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            made = cls(**config)
        except Exception as error:
            name = getattr(cls, "__name__", cls)
            raise SpecError(f"{key}: cannot build {name}: {_words(error)}") from error
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        if isinstance(made, nn.Module):
            _give_weights(made.eval().requires_grad_(False))
    return made


def _give_weights(module: nn.Module) -> None:
    for parameter in module.parameters():
        # Zero gates would make every block the identity and hide every mistake.
        if parameter.is_floating_point() and (
            not parameter.any() or not parameter.isfinite().all()
        ):
            parameter.normal_(std=0.2)
    for buffer in module.buffers():
        if buffer.is_floating_point() and buffer.isnan().any():
            buffer.normal_(std=0.2)


def _object(description: Mapping[str, Any], key: str, seed: int, build: Build) -> Any:
    for name in description:
        if name not in OBJECT_KEYS:
            raise SpecError(f"{key}: an object has no {name!r}{nearest(name, OBJECT_KEYS)}")
    name, config = description["class"], description.get("config") or {}
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise SpecError(f"{key}: expected class: 'module:Class' and config: a mapping")
    given = value(config, key=f"{key}.config", seed=seed, build=build, config=True)
    try:
        made = build(name, given)
    except SpecError as error:
        raise SpecError(f"{key}.{error}") from error.__cause__
    for path, item in (description.get("attributes") or {}).items():
        place = f"{key}.attributes.{path}"
        _set(made, path, value(item, key=place, seed=seed, build=build), place)
    return made


def _set(made: Any, path: str, item: Any, key: str) -> None:
    *within, name = path.split(".")
    try:
        setattr(reach(made, tuple(within)), name, item)
    except (AttributeError, LookupError) as error:
        raise SpecError(f"{key}: cannot be set: {_words(error)}") from None


def _build(name: str, config: dict[str, Any]) -> Any:
    return constructed(imported(name), config, seed=0, key="class")


def _shape(shape: Any, key: str) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise SpecError(f"{key}: shape is {shape!r}; expected a list of sizes such as [1, 16, 8]")
    return tuple(shape)


def _dtype(description: Mapping[str, Any], key: str) -> torch.dtype:
    name = description.get("dtype", "float32")
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        known = [n for n, found in vars(torch).items() if isinstance(found, torch.dtype)]
        raise SpecError(f"{key}: dtype {name!r} is none of torch's{nearest(str(name), known)}")
    return dtype


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
