"""Modules declared invariant give the same output at every timestep."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from autocache.authoring.checks.subject import NotApplicable, Subject, difference
from autocache.spec.bind import named


def invariant(subject: Subject) -> Iterator[str]:
    """Bit for bit, with another timestep and latent and the same other inputs."""
    if not subject.spec.invariant:
        raise NotApplicable("no invariant module is declared")
    model = subject.fresh()
    outputs: dict[str, list[Any]] = {}
    for pattern in subject.spec.invariant:
        for name, module in named(model, pattern):
            outputs[name] = []
            _record(module, outputs[name])
    for step in (0, 1):
        subject.call(model, step)
    for name, seen in outputs.items():
        if not seen:
            yield f"{name} never runs in the tiny model, so nothing about it is proven"
            continue
        half = len(seen) // 2
        differs = difference(seen[half:], seen[:half])
        if differs:
            yield f"{name} changes with the timestep or the latent: {differs}"


def _record(module: nn.Module, seen: list[Any]) -> None:
    module.register_forward_hook(lambda _m, _a, output: seen.append(copy.deepcopy(output)))
