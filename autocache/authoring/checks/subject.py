"""What checks look at: a spec, its tiny model, and calls of it."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autocache import api
from autocache.authoring.instance import inputs_of, model_of
from autocache.spec.bind import Bound, bind

if TYPE_CHECKING:
    from autocache.spec.schema import Spec

STEPS = 4
"""Calls of the tiny model that a check looks at: two that compute and two that may skip."""


class NotApplicable(Exception):
    """The spec states nothing that a check could prove."""


class Subject:
    """A spec and its tiny model, built once; every check works on copies."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @functools.cached_property
    def model(self) -> nn.Module:
        """The tiny model, never called itself."""
        return model_of(self.spec)

    @functools.cached_property
    def bound(self) -> Bound:
        """The spec bound to that model."""
        return bind(self.spec, self.model)

    def fresh(self) -> nn.Module:
        """A copy of the tiny model that nobody called or patched."""
        return copy.deepcopy(self.model)

    def call(self, model: nn.Module, step: int, **changes: Any) -> Any:
        """What a model returns for the inputs of a step."""
        with torch.no_grad():
            return model(**(inputs_of(self.spec, step) | changes))

    @functools.cached_property
    def plain(self) -> list[Any]:
        """What the unpatched model returns, by step."""
        model = self.fresh()
        return [self.call(model, step) for step in range(STEPS)]

    @functools.cached_property
    def runs(self) -> Counter[str]:
        """How often each module runs in one call of the unpatched model, by its path."""
        model = self.fresh()
        with counted(model) as ran:
            self.call(model, 0)
        return Counter({name: ran[name] for name in ran})

    def patch(self, model: nn.Module, strategy: Any = None, **options: Any) -> api.Patch:
        """Patch a copy by this very spec, whatever the registry knows."""
        return api.patch(model, strategy, spec=self.spec, **options)


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Counter[str]]:
    """How often each module really ran, by its path; counted by torch's own hooks.

    A module in several places counts at the first.
    """
    ran: Counter[str] = Counter()
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def enters(*_: Any) -> None:
            ran[name] += 1

        handles.append(module.register_forward_pre_hook(enters))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def leaves(output: Any) -> list[Any]:
    """The tensors and other values in what a model returned, depth first."""
    if isinstance(output, dict):
        return [leaf for value in output.values() for leaf in leaves(value)]
    if isinstance(output, list | tuple):
        return [leaf for value in output for leaf in leaves(value)]
    if hasattr(output, "__dataclass_fields__"):
        return [leaf for name in output.__dataclass_fields__ for leaf in leaves(vars(output)[name])]
    if not isinstance(output, torch.Tensor) and hasattr(output, "__array__"):
        # An image, or an array.
        return [torch.from_numpy(np.array(output))]
    return [output]


def structure(output: Any) -> str:
    """The types and shapes of what a model returned."""
    kind = type(output).__name__
    if isinstance(output, torch.Tensor):
        return f"{list(output.shape)}"
    if isinstance(output, dict):
        inner = ", ".join(f"{key}: {structure(value)}" for key, value in output.items())
        return f"{kind}({inner})"
    if isinstance(output, list | tuple):
        return f"{kind}({', '.join(structure(value) for value in output)})"
    return kind


def difference(got: Any, expected: Any) -> str | None:
    """How two outputs differ; None when they are the same, bit for bit."""
    if structure(got) != structure(expected):
        return f"got {structure(got)}, expected {structure(expected)}"
    for nth, (one, other) in enumerate(zip(leaves(got), leaves(expected), strict=True)):
        if not isinstance(one, torch.Tensor):
            continue
        if not torch.equal(one, other):
            return f"tensor {nth} of the output differs {_by(one, other)}"
    return None


def _by(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.dtype != other.dtype:
        return f"in dtype: {one.dtype}, expected {other.dtype}"
    if not one.is_floating_point():
        return f"in {int((one != other).sum())} of {one.numel()} elements"
    if one.isnan().any() or other.isnan().any():
        return "and has NaN"
    most = float((one - other).abs().max())
    return f"by at most {most:.2g}, where values reach {float(other.abs().max()):.2g}"


def traces(model: nn.Module) -> dict[str, tuple]:
    """What patching changes about a model's modules, to see whether it was taken back."""
    return {
        name: (
            type(module),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            frozenset(vars(module)),
        )
        for name, module in model.named_modules()
    }


def left_behind(model: nn.Module, before: dict[str, tuple]) -> list[str]:
    """The modules on which something was not taken back, at most three of them."""
    after = traces(model)
    changed = [name or "the model itself" for name in before if before[name] != after[name]]
    return changed[:3]
