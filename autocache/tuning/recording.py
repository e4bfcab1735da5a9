"""How far each thing a rule may look at moves from one step to the next, in runs without cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from autocache.how import Reuse
from autocache.probe import Named
from autocache.runtime.distance import EPSILON, relative_l1
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.outputs import flatten, joined
from autocache.strategy.recipe import Recipe, Strategy
from autocache.when import When
from autocache.where import Where

if TYPE_CHECKING:
    from torch import nn

    from autocache.probe import Probe
    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Decision, Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack
    from autocache.spec.schema import Spec

OUTPUT = "the denoiser's output"
RATIO = "the magnitude ratio of the residual"
TURN = "the cosine distance of the residual"
MOVE = "the change of the residual"


@dataclass
class Series:
    """One guidance branch of one generation: what changed how much, by step."""

    spec: Spec
    model: nn.Module
    entry: int
    """Place of the first of the inputs that it is of."""
    branch: str
    total: int | None
    changes: dict[str, dict[int, float]] = field(default_factory=dict)
    """By the probe's name or one of the names above; the first step has none."""


class Recorder:
    """Collects series; `entry` is the input being drawn."""

    def __init__(self) -> None:
        self.entry = 0
        self._series: dict[tuple, Series] = {}

    @property
    def series(self) -> list[Series]:
        return list(self._series.values())

    def add(self, bound: Bound, moment: Moment, changes: Mapping[str, float]) -> None:
        """Note what changed in a denoiser call."""
        call = moment.call
        key = (self.entry, id(bound.model), call.record.generation, call.branch)
        if key not in self._series:
            self._series[key] = Series(bound.spec, bound.model, self.entry, call.branch, call.total)
        for name, change in changes.items():
            self._series[key].changes.setdefault(name, {})[call.step] = change


class Recording(Strategy):
    """Computes every step, and notes how far probes, residual and output moved since the last."""

    name: ClassVar[str] = "calibrate"

    recorder: Any
    residual: bool = True
    probes: bool = True
    probe: str | None = None
    """The one of the probes to measure; None is all of them."""

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        bound.stack()
        parts: list[tuple[Compare, Probe | None, Where]] = [(_moved(OUTPUT), None, Output())]
        if self.residual:
            parts.append((_residual, None, Residual()))
        if self.probes:
            named = [self.probe] if self.probe else list(bound.spec.probes)
            parts += [(_moved(name), Named(name), LooksOn()) for name in named]
        return tuple(
            Recipe(when=Watch(compare, self.recorder, bound, probe), where=where, how=Reuse())
            for compare, probe, where in parts
        )


Compare = Callable[[torch.Tensor, torch.Tensor], dict[str, float]]
"""From a tensor and what it was in the step before to what is noted."""


def _moved(name: str) -> Compare:
    return lambda now, before: {name: relative_l1(now, before)}


def _residual(now: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    now, before = now.float(), before.float()
    ratio = now.norm(dim=-1) / (before.norm(dim=-1) + EPSILON)
    turn = 1 - torch.cosine_similarity(now, before, dim=-1)
    return {
        RATIO: float(ratio.mean()),
        TURN: float(turn.mean()),
        MOVE: float((now - before).norm() / now.norm().clamp_min(EPSILON)),
    }


@dataclass(frozen=True, eq=False)
class Watch(When):
    """Compares what was measured in a call, `moment.probe`, with the same of the step before."""

    compare: Compare
    recorder: Recorder
    bound: Bound
    probe: Probe | None = None
    late: bool = True

    def decide(self, moment: Moment) -> Decision:
        raise AssertionError("nothing asks: there is no place in which anything could be skipped")

    def learn(self, moment: Moment) -> None:
        now = moment.probe
        if now is None:
            return
        before = moment.store.get("before", like=now)
        if before and before[-1].step == moment.step - 1:
            self.recorder.add(self.bound, moment, self.compare(now, before[-1].tensor))
        # A copy: the model or the pipeline may write into it.
        moment.store.put("before", now.detach().clone(), moment.step, owned=True)


class LooksOn(Where):
    """No place at all, for what is only measured."""

    skips: ClassVar[bool] = False


@dataclass(frozen=True)
class Output(LooksOn):
    """The denoiser's output, as one tensor."""

    def around(self, bound: Bound, part: Part) -> _Output:
        return _Output(part)


class _Output:
    def __init__(self, part: Part) -> None:
        self.part = part

    def around(self, proceed: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        output = proceed(*args, **kwargs)
        if moment is not None:
            leaves = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
            moment.probe = joined(leaves)
        return output


@dataclass(frozen=True)
class Residual(LooksOn):
    """What all blocks add to the latent stream: from the first stack's entry to the last's exit.

    Where the stream has not the same shape at both, it is what the last stack adds.
    """

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        stacks = [stack for stack in bound.stacks if stack.blocks]
        entries = {id(stack): stack for stack in (stacks[0], stacks[-1])}
        left = _Exit(part, stacks[-1], [_Entry(part, stack) for stack in entries.values()])
        sites: list[tuple[nn.Module, Site]] = [
            (stack.blocks[0], entry)
            for stack, entry in zip(entries.values(), left.entries, strict=True)
        ]
        return [*sites, (stacks[-1].blocks[-1], left)]


class _Entry:
    """The latent stream as it enters a stack."""

    def __init__(self, part: Part, stack: BoundStack) -> None:
        self.part = part
        self.session = part.session
        self.binder, self.stream = stack.binder, stack.spec.streams[0]

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is not None and self not in moment.flights:
            stream = self.binder.get(self.stream, args, kwargs)
            # A copy: some blocks write into what they are given.
            moment.flights[self] = None if stream is None else stream.detach().clone()
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


class _Exit:
    """The latent stream as it leaves the last stack; the nearest entry is last of `entries`."""

    def __init__(self, part: Part, stack: BoundStack, entries: list[_Entry]) -> None:
        self.part = part
        self.session = part.session
        self.entries = entries
        self.flow, self.stream = stack.flow, stack.spec.streams[0]

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return COMPUTE if self.part.moment is not None else PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.part.moment
        after = self.flow.split(output)[self.flow.names.index(self.stream)]
        if moment is not None and after is not None:
            befores = [moment.flights.get(entry) for entry in self.entries]
            fitting = [b for b in befores if b is not None and b.shape == after.shape]
            moment.probe = after - fitting[0] if fitting else None
        return output
