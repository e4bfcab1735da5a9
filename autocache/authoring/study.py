"""Several forwards of one model, and what of them depends on the timestep and on the latent."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocache.authoring.trace import Call, Trace, record
from autocache.spec.schema import LATENT_NAMES

TIME_NAMES = ("timestep", "timesteps", "t")
_TIME = re.compile(r"time|sigma", re.IGNORECASE)


@dataclass(eq=False)
class Study:
    """A model, the arguments of one call, and what ran: as given, at another timestep, with another
    latent, and with both. A forward that could not be run is None."""

    model: nn.Module
    inputs: dict[str, Any]
    timestep: str | None
    latent: str | None
    base: Trace
    time: Trace | None
    content: Trace | None
    step: Trace | None

    def changed(self, call: Call, name: str, other: Trace | None, *, out: bool = False) -> bool:
        """Whether an argument (or a result) differs in another of the forwards."""
        twin = self.twin(call, other)
        if twin is None:
            return True
        mine, theirs = (call.output, twin.output) if out else (call.arguments, twin.arguments)
        return name not in theirs or mine[name].digest != theirs[name].digest

    def twin(self, call: Call, other: Trace | None) -> Call | None:
        """The same call in another of the forwards."""
        if other is None:
            return None
        same, theirs = self.base.of(call.path), other.of(call.path)
        return theirs[same.index(call)] if len(same) == len(theirs) else None


def study(model: nn.Module, inputs: Mapping[str, Any]) -> Study:
    """Run and record the forwards. Raises whatever the first of them raises."""
    lists = members(model)
    names = list(inspect.signature(model.forward).parameters)
    given = dict(inputs)
    base = record(model, given, lists)
    timestep, latent = timestep_of(names, given), latent_of(base.calls[0])

    def again(**changes: Any) -> Trace | None:
        with contextlib.suppress(Exception):
            return record(model, {**given, **changes}, lists, marks=False)
        return None

    later = {timestep: moved(given[timestep])} if timestep else {}
    other = {latent: altered(given[latent])} if latent else {}
    return Study(
        model=model,
        inputs=given,
        timestep=timestep,
        latent=latent,
        base=base,
        time=again(**later) if later else None,
        content=again(**other) if other else None,
        step=again(**later, **other) if later or other else None,
    )


def members(model: nn.Module) -> dict[str, str]:
    """The path of every module in a ModuleList, and that of its list; of lists in a list, that of
    the outer one."""
    lists = {p for p, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    found: dict[str, str] = {}
    for path in lists:
        outer = path
        while outer.rpartition(".")[0] in lists:
            outer = outer.rpartition(".")[0]
        for index, module in enumerate(model.get_submodule(path).children()):
            if not isinstance(module, nn.ModuleList):
                found[f"{path}.{index}"] = outer
    return found


def timestep_of(names: list[str], given: Mapping[str, Any]) -> str | None:
    """The argument of forward that holds the timestep, as far as names tell."""
    usual = [name for name in TIME_NAMES if name in names]
    others = [name for name in names if _TIME.search(name) and isinstance(given.get(name), _NUMBER)]
    return next((n for n in (*usual, *others) if given.get(n) is not None), None)


def latent_of(call: Call) -> str | None:
    """The argument that holds the latent: by its usual name, or by being shaped as the result."""
    given = {name.partition(".")[0]: value for name, value in reversed(call.arguments.items())}
    left = {value.shape for value in call.output.values()}
    usual = [name for name in LATENT_NAMES if name in given]
    real = [name for name, value in given.items() if value.tensor.is_floating_point()]
    alike = [name for name in reversed(real) if given[name].shape in left]
    return next(iter([*usual, *alike, *reversed(real)]), None)


_NUMBER = (int, float, torch.Tensor)


def moved(time: Any) -> Any:
    """Another timestep of the same kind and range."""
    if isinstance(time, list | tuple):
        return type(time)(moved(item) for item in time)
    if isinstance(time, torch.Tensor):
        if time.is_floating_point():
            return torch.where(time == 0, torch.full_like(time, 0.5), time * 0.5)
        return torch.where(time > 1, time // 2, time + 1)
    if isinstance(time, int) and not isinstance(time, bool):
        return time // 2 if time > 1 else time + 1
    return (time * 0.5 or 0.5) if isinstance(time, float) else time


def altered(latent: Any) -> Any:
    """Another latent of the same shape."""
    if isinstance(latent, list | tuple):
        return type(latent)(altered(item) for item in latent)
    if isinstance(latent, torch.Tensor):
        return latent * 0.75 + 0.1 if latent.is_floating_point() else latent.flip(-1)
    return latent
