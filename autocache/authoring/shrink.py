"""A tiny instance of a class: its own config made smaller, and inputs found by trying."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from autocache.authoring.guess import guessed
from autocache.authoring.notation import constructed, value
from autocache.authoring.target import Target
from autocache.errors import SpecError

LIMIT = 30_000_000
"""Parameters from which on an instance is not tiny."""

_LAYERS = re.compile(r"(?:layers|depth|num_\w*blocks)$")
_REFINER = re.compile(r"refine")
_HEADS = re.compile(r"heads$|^nhead|^n_head")
_WIDTH = re.compile(r"dim$|size$|width$|channels$")
_KEPT = re.compile(r"patch|in_channels|out_channels|head_dim|max|rope|axes|freq|norm|sample|scale")
_OUTER = re.compile(r"text|caption|cap_|joint|cross|pooled|context|cond|clip|image_|encoder|llm")
_INNER = re.compile(r"^ff|ffn|mlp_dim|intermediate|feed")

ENOUGH = 3
"""Instances that are built to find inputs for: what runs one mostly runs the others."""


@dataclass(frozen=True)
class Tiny:
    """A tiny model; its config and inputs in the notation of a proof, and the inputs themselves.

    `call` is None when no inputs were found with which it runs.
    """

    model: nn.Module
    config: dict[str, Any]
    inputs: dict[str, Any]
    call: dict[str, Any] | None


def shrunk(
    target: Target, config: Mapping[str, Any] | None, inputs: Mapping[str, Any] | None
) -> tuple[Tiny | None, str]:
    """A tiny instance that runs, or one that is only built, or none; and what went wrong.

    What is given is used as it is. Raises SpecError when the given config does not build.
    """
    if config is not None:
        attempts = iter([dict(config)])
    elif target.model is not None and not target.config:
        return _live(target.model, inputs)
    else:
        attempts = _smaller(target.cls, target.config)
    best: Tiny | None = None
    problem, built = "", 0
    for arguments in attempts:
        if built == ENOUGH:
            break
        try:
            model = _built(target.cls, arguments)
        except SpecError as error:
            if config is not None:
                raise
            problem = problem or f"No tiny instance could be built: {error}."
            continue
        found = _with_inputs(model, arguments, inputs)
        if found.call is not None:
            return found, ""
        best, built = best or found, built + 1
        problem = "A tiny instance was built, but no inputs were found with which it runs."
    return best, problem


def _live(model: nn.Module, inputs: Mapping[str, Any] | None) -> tuple[Tiny | None, str]:
    """The model itself, copied, where nothing says how another one is built."""
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > LIMIT:
        return None, f"The model has {count:,} parameters and no config to make a tiny one from."
    found = _with_inputs(copy.deepcopy(model).eval(), {}, inputs)
    return found, "" if found.call is not None else "No inputs were found with which it runs."


def _with_inputs(
    model: nn.Module, config: dict[str, Any], inputs: Mapping[str, Any] | None
) -> Tiny:
    if inputs is not None:
        return Tiny(model, config, dict(inputs), value(dict(inputs), key="inputs"))
    found = guessed(model)
    return Tiny(model, config, found or {}, value(found, key="inputs") if found else None)


def _built(cls: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    """Build it, after a look at its size where that costs nothing. Raises SpecError."""
    arguments = value(config, key="config", config=True)
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in cls(**arguments).parameters())
    except Exception:
        # Some constructors compute; then its size shows when it is built.
        count = 0
    if count > LIMIT:
        raise SpecError(f"config: {cls.__name__} has {count:,} parameters, which is not tiny")
    return constructed(cls, arguments, seed=0, key="config")


@dataclass(frozen=True)
class Sizes:
    """Heads and their size, before and after: their product is the width of the model."""

    heads: int
    fewer: int
    head: int
    smaller: int
    courage: int
    """What is made smaller: the depth, the width, and that of the conditions."""

    @property
    def width(self) -> int:
        return self.heads * self.head

    @property
    def narrow(self) -> int:
        return self.fewer * self.smaller


def _smaller(cls: type[nn.Module], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs to try; only what differs from the defaults is in them."""
    defaults = {
        name: parameter.default
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    values = {**defaults, **{name: item for name, item in given.items() if name in defaults}}
    seen: list[dict[str, Any]] = []
    for filled, courage, cut, heads in product((False, True), (2, 1, 0), (1, 4), (2, 4)):
        known = {n: _filled(n, v) if filled and v is None else v for n, v in values.items()}
        sizes = _sizes(known, heads, cut, courage)
        config: dict[str, Any] = {}
        for name, item in known.items():
            made = _required(name, sizes) if item is inspect.Parameter.empty else item
            made = _changed(name, made, sizes)
            if made is not None and made != defaults[name]:
                config[name] = list(made) if isinstance(made, tuple) else made
        if config not in seen:
            seen.append(config)
            yield config


def _changed(name: str, item: Any, sizes: Sizes) -> Any:
    made = _depth(name, item)
    if made == item and sizes.courage > 0:
        made = _width(name, item, sizes)
    if made == item and sizes.courage > 1:
        made = _outer(name, item, sizes)
    return made


def _sizes(values: Mapping[str, Any], fewer: int, cut: int, courage: int) -> Sizes:
    heads = next((v for n, v in values.items() if _HEADS.search(n) and _whole(v)), None)
    head = next((v for n, v in values.items() if n.endswith("head_dim") and _whole(v)), None)
    axes = next((v for n, v in values.items() if _is_axes(n, v)), None)
    own = [n for n in values if _WIDTHS.search(n) and not (_OUTER.search(n) or _INNER.search(n))]
    wide = [values[name] for name in own if _whole(values[name])]
    if head is None:
        head = sum(axes) if axes else max(1, wide[0] // (heads or 8)) if wide else 8
    if heads is None:
        heads = max(1, wide[0] // head) if wide else 8
    smaller = sum(_even(axes, cut)) if axes else max(8, head // cut)
    return Sizes(heads, min(fewer, heads), head, min(smaller, head), courage)


_WIDTHS = re.compile(r"^(?:\w+_)?(?:hidden_size|dim|inner_dim|embed_dim|width|token_dim|d_model)$")


def _is_axes(name: str, item: Any) -> bool:
    return "axes" in name and isinstance(item, list | tuple) and all(map(_whole, item))


def _even(axes: Any, cut: int) -> list[int]:
    return [max(2, n // cut // 2 * 2) for n in axes]


def _whole(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _required(name: str, sizes: Sizes) -> Any:
    """A value for an argument that has no default."""
    found = _filled(name, None)
    if _WIDTHS.search(name):
        return sizes.narrow
    return 4 if found is None else found


def _filled(name: str, item: Any) -> Any:
    """A value for an argument that is None, where a class cannot do without."""
    for pattern, made in _FILLINGS:
        if re.fullmatch(pattern, name):
            return made
    return item


_FILLINGS: tuple[tuple[str, Any], ...] = (
    (r"(?:\w+_)?(?:layers|depth)|nlayers", 3),
    (r"(?:\w+_)?heads|nheads?", 2),
    (r"attention_head_dim", 16),
    (r"(?:in|out)_channels", 4),
    (r"patch_size", 2),
    (r"sample_size", 8),
    (r"cross_attention_dim|caption_channels", 32),
    (r"hidden_size", 32),
)


def _depth(name: str, item: Any) -> Any:
    """Fewer layers."""
    if _LAYERS.search(name) and _whole(item):
        return min(item, 1 if _REFINER.search(name) else 3)
    if name == "layers_per_block" and _whole(item):
        return min(item, 2)
    if isinstance(item, list | tuple) and re.search(r"layers_per_block|depth|num_layers", name):
        return [min(n, 2) if _whole(n) else n for n in item]
    return item


def _width(name: str, item: Any, sizes: Sizes) -> Any:
    """Fewer heads, perhaps smaller ones, and what follows from that."""
    if _is_axes(name, item) and sum(item) == sizes.head != sizes.smaller:
        return _even(item, max(1, sizes.head // sizes.smaller))
    if name == "block_out_channels" and isinstance(item, list | tuple):
        return [min(n, 64 * (1 + (i > 0))) for i, n in enumerate(item)]
    if not _whole(item):
        return item
    if _HEADS.search(name):
        same = item == sizes.heads
        return sizes.fewer if same else max(1, item * sizes.fewer // sizes.heads)
    if name.endswith("head_dim") and item == sizes.head:
        return sizes.smaller
    if _KEPT.search(name):
        return item
    if item == sizes.width:
        return sizes.narrow
    if _INNER.search(name) and item > 256:
        return 2 * sizes.narrow
    return item


def _outer(name: str, item: Any, sizes: Sizes) -> Any:
    """Narrower conditions."""
    outer = _OUTER.search(name) and _WIDTH.search(name) and not _KEPT.search(name)
    if outer and _whole(item) and item not in (sizes.width, sizes.narrow):
        return min(item, 64)
    return item
