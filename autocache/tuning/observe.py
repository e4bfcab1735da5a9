"""Watching a pipeline from the inside: the denoiser's calls, and what the scheduler is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from autocache.errors import AutocacheError
from autocache.runtime.outputs import flatten, unflatten
from autocache.where import Where

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.moment import Call
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound


class Observer(Protocol):
    """Told of everything, and free to change it."""

    def called(self, call: Call, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A denoiser call: its output, which `run()` computes."""
        ...

    def stepping(self, scheduler: Any, given: dict[str, Any]) -> torch.Tensor | None:
        """The scheduler's step is to be taken with these arguments, by name; another
        `model_output`, or None for the one it has."""
        ...


class SeveralOutputs(AutocacheError):
    """The denoiser returns more than one tensor, or none."""


@dataclass(frozen=True)
class Observed(Where):
    """The whole denoiser and the scheduler's steps, in the hands of an observer."""

    observer: Observer
    needs_spec: ClassVar[bool] = False
    skips: ClassVar[bool] = False

    def around(self, bound: Bound, part: Part) -> _Calls:
        return _Calls(part, self.observer)

    def claims(self, bound: Bound) -> list[nn.Module]:
        return [bound.model]

    def stepping(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        bound = inspect.signature(scheduler.step).bind(*args, **kwargs)
        other = self.observer.stepping(scheduler, bound.arguments)
        if other is None:
            return None
        bound.arguments["model_output"] = other
        return bound.args, bound.kwargs


class _Calls:
    def __init__(self, part: Part, observer: Observer) -> None:
        self.part = part
        self.observer = observer
        self.rest: Any = None

    def around(self, proceed: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        call = self.part.session.track.call
        if call is None:
            return proceed(*args, **kwargs)

        def run() -> torch.Tensor:
            leaves, shape = flatten(proceed(*args, **kwargs))
            tensors = [nth for nth, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            if len(tensors) != 1:
                raise SeveralOutputs(f"the denoiser returns {len(tensors)} tensors")
            self.rest = leaves, shape, tensors[0]
            return leaves[tensors[0]]

        output = self.observer.called(call, run)
        leaves, shape, nth = self.rest
        return unflatten([*leaves[:nth], output, *leaves[nth + 1 :]], shape)
