"""What a pipeline's loop really does with its denoisers, seen by torch's own hooks."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autocache.spec.flow import reach
from autocache.spec.schema import LATENT_NAMES, Spec


@dataclass
class Call:
    """One call of a denoiser: which one, with what, and the units of it that ran.

    `times` are all there are in it, where tokens or frames have times of their own, and `time` the
    highest. Units are what a strategy would skip: blocks, layers, attention modules. `free` calls
    are not counted as steps, because they write into caches of the model's own.
    """

    number: int
    time: float | None
    times: frozenset[float]
    given: dict[str, Any]
    free: bool
    ran: set[str] = field(default_factory=set)

    @property
    def size(self) -> tuple:
        """Of one sample of what is denoised."""
        latent = next((self.given[name] for name in LATENT_NAMES if name in self.given), None)
        return tuple(latent.shape[1:]) if isinstance(latent, torch.Tensor) else ()

    def goes_with(self, others: Sequence[Call]) -> bool:
        """Whether it is of the same step: at the same times, and denoises as much.

        A denoiser of the unconditional branch alone may be given no text beside the image.
        """
        same = [other for other in others if other.number == self.number]
        alike = all(other.size == self.size for other in same)
        return bool(self.times) and others[0].times == self.times and alike

    @property
    def shapes(self) -> tuple:
        """What has to stay the same for kept tensors to fit."""
        tensors = (value for value in self.given.values() if isinstance(value, torch.Tensor))
        return tuple((tensor.shape, tensor.dtype) for tensor in tensors)


@contextlib.contextmanager
def traced(
    spec: Spec, denoisers: Sequence[nn.Module], units: Sequence[Sequence[str]]
) -> Iterator[list[Call]]:
    """The calls of these denoisers, in the order in which they are made."""
    calls: list[Call] = []
    handles = []

    def watch(number: int, model: nn.Module) -> None:
        signature = inspect.signature(type(model).forward)

        def enters(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given = signature.bind(model, *args, **kwargs)
            given.apply_defaults()
            calls.append(_call(spec, number, dict(list(given.arguments.items())[1:])))

        handles.append(model.register_forward_pre_hook(enters, with_kwargs=True))
        for name in units[number]:
            if name:
                note = _note(calls, name)
                handles.append(model.get_submodule(name).register_forward_pre_hook(note))

    for number, model in enumerate(denoisers):
        watch(number, model)
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _note(calls: list[Call], name: str) -> Any:
    return lambda *_: calls[-1].ran.add(name)


def _call(spec: Spec, number: int, given: dict[str, Any]) -> Call:
    free = any(_within(given, name) in values for name, values in spec.compute_when.items())
    times = frozenset(_times(given.get(spec.timestep)) if spec.timestep is not None else ())
    # The loop may go on to write into what it gave.
    kept = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in given.items()}
    return Call(number, max(times, default=None), times, kept, free)


def _within(given: dict[str, Any], name: str) -> Any:
    """The value at a dotted name; None where nothing holds one."""
    try:
        return reach(given, tuple(name.split(".")))
    except (AttributeError, LookupError):
        return None


def _times(time: Any) -> list[float]:
    if isinstance(time, list | tuple):
        return [found for item in time for found in _times(item)]
    if isinstance(time, torch.Tensor):
        return time.flatten().tolist()
    return [] if time is None else [float(time)]


def steps_of(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls of each step: those in a row at one time. Without times every call is one."""
    steps: list[list[Call]] = []
    for call in calls:
        if steps and call.goes_with(steps[-1]):
            steps[-1].append(call)
        else:
            steps.append([call])
    return steps
