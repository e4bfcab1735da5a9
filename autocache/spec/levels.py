"""The levels of a UNet, found in a live model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from autocache.errors import nearest
from autocache.spec.schema import Levels

Layer = tuple[str, ...]
"""The paths of modules that run one after another."""


@dataclass(frozen=True)
class Level:
    """The two blocks of one resolution that face each other, by their paths in the model.

    Layers are in the order they run: `up_layers[-1]` is the last one before the level is left.
    """

    down: str
    up: str
    down_layers: tuple[Layer, ...]
    up_layers: tuple[Layer, ...]
    downsamplers: Layer


@dataclass(frozen=True)
class UNet:
    """The levels, the one of full resolution first, and the block between down and up path."""

    levels: tuple[Level, ...]
    middle: str | None
    layers: tuple[str, ...]
    """Every module of every layer, in no certain order."""


def find(spec: Levels, model: nn.Module) -> UNet:
    """The levels of a model in which `problems` found none."""
    downs = _paths(model, spec.down)
    ups = _paths(model, spec.up)
    levels = tuple(
        Level(
            down,
            up,
            _layers(model, down, spec.layers),
            _layers(model, up, spec.layers),
            _paths(model, f"{down}.{spec.downsamplers}"),
        )
        for down, up in zip(downs, reversed(ups), strict=True)
    )
    middle = spec.middle if _module(model, spec.middle) is not None else None
    blocks = [*downs, *ups, *([middle] if middle else [])]
    lists = (_paths(model, f"{block}.{name}") for block in blocks for name in spec.layers)
    return UNet(levels, middle, tuple(itertools.chain.from_iterable(lists)))


def problems(spec: Levels, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Every key of `Levels` that does not hold for a model, and why."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    top = [name for name in lists if "." not in name]
    counts = {}
    for key, path in (("down", spec.down), ("up", spec.up)):
        counts[key] = len(_paths(model, path))
        if not isinstance(_module(model, path), nn.ModuleList):
            yield key, f"{type(model).__name__} has no ModuleList {path!r}{nearest(path, top)}"
            return
    if counts["down"] != counts["up"]:
        yield "up", f"{counts['down']} blocks go down and {counts['up']} up; expected as many"
    inner = {name.rpartition(".")[2] for name in lists if "." in name}
    for block in (*_paths(model, spec.down), *_paths(model, spec.up)):
        if not _layers(model, block, spec.layers):
            wanted = " or ".join(map(repr, spec.layers))
            yield "layers", f"{block} has no ModuleList {wanted}{nearest(spec.layers[0], inner)}"
            return


def _layers(model: nn.Module, block: str, names: list[str]) -> tuple[Layer, ...]:
    columns = [_paths(model, f"{block}.{name}") for name in names]
    rows = itertools.zip_longest(*columns)
    return tuple(tuple(path for path in row if path is not None) for row in rows)


def _paths(model: nn.Module, path: str) -> Layer:
    """The paths of the modules in a list; none where there is no such list."""
    found = _module(model, path)
    if not isinstance(found, nn.ModuleList):
        return ()
    return tuple(f"{path}.{index}" for index in range(len(found)))


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
