"""Skip a module that is called on the very same inputs as when it last ran."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from autocache.runtime.moment import Decision
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.runtime.moment import Moment

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Inputs that are no tensors and whose equality says all."""

GIVES_UP = 2
"""Changed inputs in a row after which nothing is remembered of a module in this generation."""


@dataclass(frozen=True)
class Unchanged(When):
    """Lossless. Inputs are the same when every tensor is the same object at the same version, or
    the same view of one, and everything else is plain and equal; a module's weights and adapters
    count among its inputs.

    Whatever is not certain is computed: under grad or inference mode, in training, and on inputs of
    any other kind. A module whose inputs are made anew in every step is soon left alone.
    """

    def decide(self, moment: Moment) -> Decision:
        unsure = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        # A CUDA graph returns the same tensor with something else in it.
        return Decision(unsure or moment.store.copies)

    def decide_at(
        self, moment: Moment, site: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> Decision:
        key = f"inputs of {site}"
        before: _Inputs | None = moment.memory.get(key)
        now = _inputs(module, args, kwargs, before.changes if before else 0)
        if now is None:
            moment.memory.pop(key, None)
            return Decision(compute=True)
        if before is not None and not _same(before, now):
            now = now._replace(changes=before.changes + 1)
        elif before is not None:
            now = now._replace(changes=0)
        moment.memory[key] = now
        if before is not None and now.changes == 0:
            return Decision(compute=False)
        return Decision(compute=True, keep=now.changes < GIVES_UP)


class _Seen(NamedTuple):
    """A tensor as it was. No more than a weak reference: one that is gone was another.

    Of a view it is the tensor looked at, and what part of it: models slice the same text in every
    step, which makes a new object but nothing new to compute.
    """

    tensor: weakref.ref[torch.Tensor]
    version: int
    part: tuple = ()


class _Quantized(NamedTuple):
    """A weight made of several tensors, as it was. Held and not weakly: to move it torch exchanges
    what is in it, and refuses to where there is a weak reference to it."""

    tensor: torch.Tensor
    version: int
    dtype: torch.dtype
    device: torch.device


class _Inputs(NamedTuple):
    layout: Any
    values: list[Any]
    changes: int


class _UnsureError(Exception):
    """Whether such an input is the same another time cannot be told."""


def _inputs(module: nn.Module, args: tuple, kwargs: dict[str, Any], changes: int) -> _Inputs | None:
    if any(inner.training and not _knows_no_training(inner) for inner in module.modules()):
        return None
    leaves, layout = pytree.tree_flatten((args, kwargs))
    try:
        return _Inputs(layout, [*map(_seen, leaves), *_weights(module)], changes)
    except _UnsureError:
        return None


def _knows_no_training(module: nn.Module) -> bool:
    """What diffusers fuses and the layers of the adapters it loads are left in training mode."""
    if isinstance(module, (nn.Linear, nn.Identity)) or hasattr(module, "base_layer"):
        return True
    return isinstance(module, (nn.ModuleDict, nn.ParameterDict, nn.ModuleList, nn.Sequential))


def _seen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.is_inference():
            raise _UnsureError
        base = value._base
        if base is None or not type(base) is type(value) is torch.Tensor:
            return _Seen(weakref.ref(value), value._version)
        return _Seen(weakref.ref(base), value._version, _part(value))
    if isinstance(value, PLAIN):
        return value
    raise _UnsureError


def _weight(weight: torch.Tensor) -> _Seen | _Quantized:
    if is_traceable_wrapper_subclass(weight) and not weight.is_inference():
        return _Quantized(weight, weight._version, weight.dtype, weight.device)
    return _seen(weight)


def _part(view: torch.Tensor) -> tuple:
    """What a view shows of the tensor it looks at."""
    if view.layout is not torch.strided:
        raise _UnsureError
    bits = view.dtype, view.is_conj(), view.is_neg()
    return view.storage_offset(), tuple(view.size()), view.stride(), *bits


def _weights(module: nn.Module) -> list[Any]:
    """What the module computes with. Offloaded weights are on no device between two calls and come
    as new objects each time: their owner keeps them, and they count as unchanged."""
    found: list[Any] = [
        "offloaded" if weight.is_meta else _weight(weight)
        for weight in (*module.parameters(), *module.buffers())
    ]
    for inner in module.modules():
        if hasattr(inner, "base_layer"):  # an adapter's layer: its scale is in no tensor
            names = ("scaling", "active_adapters", "merged_adapters", "disable_adapters")
            found.append(repr([getattr(inner, name, None) for name in names]))
    return found


def _same(before: _Inputs, now: _Inputs) -> bool:
    return (
        before.layout == now.layout
        and len(before.values) == len(now.values)
        and all(map(_equal, before.values, now.values))
    )


def _equal(before: Any, now: Any) -> bool:
    if type(before) is not type(now):
        return False
    if isinstance(now, _Seen):
        same = before.tensor() is now.tensor() and before.version == now.version
        return same and before.part == now.part
    if isinstance(now, _Quantized):
        return before.tensor is now.tensor and before[1:] == now[1:]
    return before == now
