"""What a spec names that does not exist in the packages installed here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from autocache import strategy
from autocache.authoring.instance import model_of
from autocache.authoring.notation import value
from autocache.errors import AutocacheError, SpecError, nearest
from autocache.spec import checks
from autocache.spec.bind import bind
from autocache.spec.checks import Problem
from autocache.spec.facts import Location
from autocache.spec.loader import line_of
from autocache.spec.schema import Spec


def problems(spec: Spec) -> list[str]:
    """Names of modules, arguments, pipelines, strategies and parameters that do not exist.

    One line `file:line:column: message` for each. The denoiser's class is built without weights, as
    its proof has it or else with its defaults; where neither works, only classes and arguments are
    looked at. A class whose package is not installed cannot be looked into.
    """
    found = [*_presets(spec)]
    lines: list[str] = []
    if installed(spec):
        cls = _class(spec)
        if isinstance(cls, str):
            found.append((("model",), cls))
        else:
            found += [*_pipelines(spec), *_matches(spec, cls)]
            lines = _lines_of_model(spec, cls)
    return [f"{line_of(spec, *at)}: {message}" for at, message in found] + lines


def installed(spec: Spec) -> bool:
    """Whether the package of the denoiser's class is there."""
    package = spec.model.partition(":")[0].partition(".")[0]
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _class(spec: Spec) -> type[nn.Module] | str:
    """The denoiser's class, or why there is none."""
    path, _, name = spec.model.partition(":")
    try:
        module = importlib.import_module(path)
    except Exception as error:  # whatever somebody else's module raises
        return f"cannot import {path}: {type(error).__name__}: {' '.join(str(error).split())}"
    try:
        cls: Any = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        return f"{path} has no class {name!r}{nearest(name, _classes(module))}"
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        return f"{name} is no class of torch modules{nearest(name, _classes(module))}"
    return cls


def _classes(module: Any) -> list[str]:
    return [
        name
        for name, item in vars(module).items()
        if isinstance(item, type)
        and issubclass(item, nn.Module)
        and item.__module__ == module.__name__
    ]


def _lines_of_model(spec: Spec, cls: type[nn.Module]) -> list[str]:
    try:
        model = _sketch(spec, cls)
        if model is not None:
            bind(spec, model)
            return []
    except SpecError as error:
        return str(error).splitlines()
    found = [*checks.of_arguments(spec, cls), *_blocks(spec, cls)]
    return [f"{line_of(spec, *at)}: {message}" for at, message in found]


def _sketch(spec: Spec, cls: type[nn.Module]) -> nn.Module | None:
    """A model without weights; a tiny one with weights where its constructor wants values.

    Raises SpecError when the proof's config makes none.
    """
    config: dict[str, Any] = {}
    if spec.proof is not None:
        try:
            config = value(spec.proof.config, key="config", config=True)
        except SpecError as error:
            raise SpecError(f"{line_of(spec, 'proof', 'config')}: {error}") from None
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return cls(**config)
    except Exception:
        # Either values are computed with, or the config does not fit, which building it tells.
        return model_of(spec) if spec.proof is not None and spec.proof.config else None


def _blocks(spec: Spec, cls: type[nn.Module]) -> Iterator[Problem]:
    """Block classes and their streams, as far as the classes are where the denoiser's is."""
    module = importlib.import_module(cls.__module__)
    for i, stack in enumerate(spec.stacks):
        for name in stack.block_names:
            block = getattr(module, name, None)
            if isinstance(block, type) and issubclass(block, nn.Module):
                yield from checks.of_streams(("stacks", i), stack, block)


def _pipelines(spec: Spec) -> Iterator[Problem]:
    """Pipelines that diffusers does not have, of a denoiser that is its own."""
    if not spec.model.startswith("diffusers."):
        return
    import diffusers

    named: list[tuple[Location, str]] = [(("guidance", n), n) for n in spec.guidance]
    loops = spec.proof.pipelines if spec.proof else {}
    for label, loop in loops.items():
        named.append((("proof", "pipelines", label, "pipeline"), loop.pipeline or label))
    known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    for at, name in named:
        if ":" not in name and not hasattr(diffusers, name):
            yield at, f"diffusers has no pipeline {name!r}{nearest(name, known)}"


def _matches(spec: Spec, cls: type[nn.Module]) -> Iterator[Problem]:
    """Keys of the config to match that the denoiser's constructor does not know."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = list(parameters)[1:]
    groups: dict[tuple[str, ...], Any] = {
        ("teacache",): spec.teacache,
        ("magcache",): spec.magcache,
        **{("presets", name): entries for name, entries in spec.presets.items()},
    }
    for at, entries in groups.items():
        for i, entry in enumerate(entries):
            for key in entry.match:
                if key not in known and not key.startswith("_"):
                    message = f"the config of {cls.__name__} has no {key!r}{nearest(key, known)}"
                    yield (*at, i, "match", key), message


def _presets(spec: Spec) -> Iterator[Problem]:
    """Strategies that do not exist, and parameters that they do not take."""
    for name, entries in spec.presets.items():
        try:
            chosen = strategy.get(name)
        except AutocacheError as error:
            yield ("presets", name), str(error)
            continue
        for i, preset in enumerate(entries):
            try:
                chosen.create(**preset.parameters)
            except AutocacheError as error:
                yield ("presets", name, i, "parameters"), " ".join(str(error).split())
