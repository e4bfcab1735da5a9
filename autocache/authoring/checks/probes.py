"""Probes are reachable and tell two timesteps apart."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from autocache.authoring.checks.subject import NotApplicable, Subject
from autocache.how import Reuse
from autocache.probe import Named
from autocache.spec.schema import Probe
from autocache.when import Accumulated
from autocache.where import Blocks


def probes(subject: Subject) -> Iterator[str]:
    """Each probe gives a floating tensor, of one shape and other values at another timestep."""
    if not subject.spec.probes:
        raise NotApplicable("no probe is declared")
    for name, probe in subject.spec.probes.items():
        wrong = _wrong(subject, probe) or _unmeasured(subject, name)
        if wrong:
            yield f"{name}: {wrong}"


def _wrong(subject: Subject, probe: Probe) -> str | None:
    first, second = (_read(subject, probe, step) for step in (0, 1))
    if first is None or second is None:
        return "is never reached in a call of the tiny model"
    for value in (first, second):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return f"is a {getattr(value, 'dtype', type(value).__name__)}, not a floating tensor"
    if first.shape != second.shape:
        return f"has shape {list(first.shape)} in one step and {list(second.shape)} in the next"
    if torch.equal(first, second):
        return "is the same in two steps, so it cannot tell how far one moved"
    return None


def _unmeasured(subject: Subject, name: str) -> str | None:
    """What the library itself measures, where there are blocks to skip."""
    if not subject.bound.block_count:
        return None
    model = subject.fresh()
    when = Accumulated(measured=Named(name), threshold=1e-30)
    patch = subject.patch(model, when=when, where=Blocks(), how=Reuse())
    for step in range(2):
        subject.call(model, step)
    distance = patch.stats().steps[-1].distance
    if distance is None or not math.isfinite(distance) or distance <= 0:
        return f"measures a distance of {distance} between two steps; expected a number above 0"
    return None


def _read(subject: Subject, probe: Probe, step: int) -> Any:
    """The probe's value, read with torch's own hooks; None when nothing gives one."""
    model = subject.fresh()
    seen: list[Any] = []
    if probe.output_of:
        output = probe.output_of

        def returns(_module: nn.Module, _args: tuple, value: Any) -> None:
            seen.append(value if output.output is None else value[output.output])

        model.get_submodule(output.module).register_forward_hook(returns)
    else:
        stack = next(
            (s for s in subject.spec.stacks if len(model.get_submodule(s.path)._modules)), None
        )
        if stack is None:
            return None
        _read_block(next(model.get_submodule(stack.path).children()), probe, seen)
    subject.call(model, step)
    return _kept(seen)


def _read_block(block: nn.Module, probe: Probe, seen: list[Any]) -> None:
    if probe.input_of:
        wanted = probe.input_of
        inner = block.get_submodule(wanted.module)

        def receives(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            seen.append(_argument(module, args, kwargs, wanted.argument))

        inner.register_forward_pre_hook(receives, with_kwargs=True)
        return

    def enters(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if probe.argument:
            seen.append(_argument(module, args, kwargs, probe.argument))
        elif probe.call:
            given = {
                parameter: _argument(module, args, kwargs, argument)
                for parameter, argument in probe.call.arguments.items()
            }
            value = module.get_submodule(probe.call.module)(**given)
            seen.append(value if probe.call.output is None else value[probe.call.output])

    block.register_forward_pre_hook(enters, with_kwargs=True)


def _argument(module: nn.Module, args: tuple, kwargs: dict[str, Any], name: str) -> Any:
    given = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    given.apply_defaults()
    if name in given.arguments:
        return given.arguments[name]
    return given.arguments.get("kwargs", {}).get(name)


def _kept(seen: list[Any]) -> Any:
    if not seen:
        return None
    return seen[0].clone() if isinstance(seen[0], torch.Tensor) else seen[0]
