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

    `down` and `up` are what is called for all of a block: mostly the block itself. Layers are in
    the order they run: `up_layers[-1]` is the last one before the level is left.
    """

    down: Layer
    up: Layer
    down_layers: tuple[Layer, ...]
    up_layers: tuple[Layer, ...]
    downsamplers: Layer


@dataclass(frozen=True)
class UNet:
    """The levels, the one of full resolution first, and the block between down and up path.

    A down block that no up block faces is in none of the levels.
    """

    levels: tuple[Level, ...]
    middle: str | None
    layers: tuple[str, ...]
    """Every module of every layer, in no certain order."""
    by_layer: bool
    """Whether each layer has a skip connection of its own, and not each block."""


def find(spec: Levels, model: nn.Module) -> UNet:
    """The levels of a model in which `problems` found none."""
    downs, ups = _blocks(model, spec.down), _blocks(model, spec.up)
    levels = tuple(
        Level(
            _called(model, down),
            _called(model, up),
            _layers(model, down, spec.layers),
            _layers(model, up, spec.layers),
            tuple(
                found
                for block in down
                for name in _listed(spec.downsamplers)
                for found in _called(model, (f"{block}.{name}",))
            ),
        )
        # The innermost two face each other, also where more blocks go down than up.
        for down, up in reversed(list(zip(reversed(downs), ups, strict=False)))
    )
    middle = spec.middle if _module(model, spec.middle) is not None else None
    blocks = [*downs, *ups, *([(middle,)] if middle else [])]
    rows = (row for block in blocks for row in _layers(model, block, spec.layers))
    return UNet(levels, middle, tuple(itertools.chain(*rows)), spec.skips == "layer")


def problems(spec: Levels, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Every key of `Levels` that does not hold for a model, and why."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    top = [name for name in lists if "." not in name]
    for key, paths in (("down", _listed(spec.down)), ("up", _listed(spec.up))):
        for path in paths:
            if not isinstance(_module(model, path), nn.ModuleList):
                yield key, f"{type(model).__name__} has no ModuleList {path!r}{nearest(path, top)}"
                return
        counts = [len(_paths(model, path)) for path in paths]
        if len(set(counts)) > 1:
            yield key, f"{' and '.join(paths)} have {counts} items; expected one per level in each"
            return
    downs, ups = _blocks(model, spec.down), _blocks(model, spec.up)
    if len(downs) < len(ups) or (spec.skips == "layer" and len(downs) > len(ups)):
        yield "up", f"{len(downs)} blocks go down and {len(ups)} up; expected as many"
    inner = {name.rpartition(".")[2] for name in lists if "." in name}
    for block in (*downs, *ups):
        if not _layers(model, block, spec.layers):
            wanted = " or ".join(map(repr, spec.layers))
            yield "layers", f"{block[0]} has no ModuleList {wanted}{nearest(spec.layers[0], inner)}"
            return


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _blocks(model: nn.Module, names: str | list[str]) -> list[Layer]:
    """For each level, its item of every list."""
    return list(zip(*(_paths(model, path) for path in _listed(names)), strict=False))


def _called(model: nn.Module, paths: Layer) -> Layer:
    """Those of the modules that are called, in place of lists what is in them."""
    found: list[str] = []
    for path in paths:
        inside = _paths(model, path)
        if inside or isinstance(_module(model, path), nn.ModuleList):
            found.extend(_called(model, inside))
        elif _module(model, path) is not None:
            found.append(path)
    return tuple(found)


def _layers(model: nn.Module, block: Layer, names: list[str]) -> tuple[Layer, ...]:
    """The rows of a block's lists, or one layer for each item of a block that is a list."""
    columns = [_paths(model, f"{part}.{name}") for part in block for name in names]
    rows = itertools.zip_longest(*columns)
    layers = [tuple(path for path in row if path is not None) for row in rows]
    layers = [row for row in (_present(model, layer) for layer in layers) if row]
    return tuple(layers) or tuple((path,) for part in block for path in _paths(model, part))


def _present(model: nn.Module, layer: Layer) -> Layer:
    """A layer without what only stands in for a module that the checkpoint does not have."""
    return tuple(path for path in layer if not isinstance(_module(model, path), nn.Identity))


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
