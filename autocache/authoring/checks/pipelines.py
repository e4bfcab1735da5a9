"""A tiny pipeline in its own loop: steps, guidance branches and generations are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autocache import api
from autocache.authoring.checks.guidance import style
from autocache.authoring.checks.subject import (
    Subject,
    difference,
    leaves,
    left_behind,
    traces,
)
from autocache.authoring.checks.trace import Call, steps_of, traced
from autocache.authoring.instance import call_of, class_of, loop_of, pipeline_of, run_loop
from autocache.how import Reuse
from autocache.runtime.record import StepRecord
from autocache.spec import registry
from autocache.spec.bind import Bound, bind
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Denoiser


@dataclass(frozen=True)
class _Strategy:
    """One that skips every other step, the same set so that it never does, and what it skips."""

    skipping: dict[str, Any]
    never: dict[str, Any]
    units: list[str]
    all_of_them: bool = True
    """A step that skips runs no unit at all, rather than some of them."""
    whole: bool = False
    """The whole call is what is skipped."""


def pipeline(subject: Subject, label: str) -> Iterator[str]:
    """Plainly, with a patch that never skips, and with one that skips every other step."""
    plain = _Run(subject.spec, label)
    expected = plain.go()
    if not plain.calls:
        yield "the pipeline never calls the denoiser"
        return
    tensors = [leaf for leaf in leaves(expected) if isinstance(leaf, torch.Tensor)]
    if not any(tensor.numel() for tensor in tensors):
        yield "what comes out is empty; ask for a larger height and width, or another output_type"
        return
    if not all(tensor.isfinite().all() for tensor in tensors):
        yield "what comes out of the unpatched pipeline is not finite"
    yield from plain.agrees()
    never = _Run(subject.spec, label)
    # diffusers leaves marks of its own in the first run, so a plain pipeline is what to compare to.
    before = [traces(model) for model in plain.denoisers]
    with never.patched(never.strategy.never):
        differs = difference(never.go(), expected)
    if differs:
        yield f"a patch that never skips: {differs}"
    for model, was in zip(never.denoisers, before, strict=True):
        changed = left_behind(model, was)
        if changed:
            yield f"unpatching did not restore {', '.join(changed)}"
    yield from _skips(_Run(subject.spec, label), plain, expected)


def _skips(run: _Run, plain: _Run, expected: Any) -> Iterator[str]:
    with run.patched(run.strategy.skipping) as patch:
        first = run.go()
        records = [api.stats(model).steps for model in run.denoisers]
        yield from _branches(run, records)
        generations = patch.stats().generations
        if generations != run.loop.generations:
            yield f"{generations} generation(s) were seen, expected {run.loop.generations}"
        yield from _ran(run, plain, records)
        if [call.ran for call in run.free] != [call.ran for call in plain.free]:
            yield "something was skipped in a call that compute_when wants to be computed"
        if difference(first, expected) is None:
            yield "skipping every other step made no difference to what comes out"
        differs = difference(run.go(), first)
        if differs:
            yield f"a second generation is not as the first: {differs}"
        generations = patch.stats().generations
        if generations != 2 * run.loop.generations:
            yield f"{generations} generations were seen in two runs of {run.loop.generations}"


class _Run:
    """A pipeline of its own, with what its calls were."""

    def __init__(self, spec: Spec, label: str) -> None:
        self.spec, self.label, self.loop = spec, label, loop_of(spec, label)
        self.pipe = pipeline_of(spec, label)
        found = {id(m): m for m in _modules(self.pipe) if isinstance(m, class_of(spec))}
        self.denoisers: list[nn.Module] = list(found.values())
        self.bounds = [bind(spec, model) for model in self.denoisers]
        self.calls: list[Call] = []
        self.free: list[Call] = []
        """Calls that write into the model's own caches."""

    @property
    def strategy(self) -> _Strategy:
        """What there is to skip, in the first denoiser."""
        return _strategy(self.bounds[0])

    def go(self) -> Any:
        """One generation; its calls are remembered."""
        units = [_strategy(bound).units for bound in self.bounds]
        with traced(self.spec, self.denoisers, units) as calls:
            output = run_loop(self.spec, self.label, self.pipe)
        self.calls = [call for call in calls if not call.free]
        self.free = [call for call in calls if call.free]
        return output

    def patched(self, options: dict[str, Any]) -> api.Patch:
        """By the registry, as everyone does, or by this very spec where that has another one."""
        known = registry.find(self.denoisers[0])
        own = known is not None and known.model == self.spec.model and known == self.spec
        return api.patch(self.pipe, spec=None if own else self.spec, **options)

    def agrees(self) -> Iterator[str]:
        """Guidance and times of the unpatched loop, against what the spec says of them."""
        steps = steps_of(self.calls)
        name = (self.loop.pipeline or self.label).rpartition(":")[2]
        if self.label == name:
            given = call_of(self.spec, self.label)
            yield from style(self.spec, name, self.loop, steps, given)
        scheduler = getattr(self.pipe, "scheduler", None)
        times = [float(time) for time in getattr(scheduler, "timesteps", ())]
        yield from _scale(self.spec, times, [step[0].time for step in steps])


def _strategy(bound: Bound) -> _Strategy:
    if bound.block_count:
        options = {"strategy": "dit_block", "step_start": 0, "block_start": 0}
        blocks = [f"{stack.path}.{n}" for stack in bound.stacks for n in range(len(stack.blocks))]
        options["block_end"] = bound.block_count
        every = {**options, "step_interval": 2}
        return _Strategy(every, {**options, "step_interval": 1}, blocks)
    if bound.unet is not None:
        options = {"strategy": "deepcache"}
        every, never = ({**options, "interval": interval} for interval in (2, 1))
        return _Strategy(every, never, list(bound.unet.layers), all_of_them=False)
    if bound.attention:
        kinds = tuple(sorted(bound.attention_kinds))
        options = {"strategy": "attention", "kinds": kinds, "step_start": 0}
        every, never = ({**options, "step_interval": interval} for interval in (2, 1))
        return _Strategy(every, never, [name for name, _, _ in bound.attention])
    parts = {"where": Denoiser(), "how": Reuse()}
    every, never = ({"when": Interval(n, start=0), **parts} for n in (2, 1))
    return _Strategy(every, never, [], whole=True)


def _branches(run: _Run, records: Sequence[Sequence[StepRecord]]) -> Iterator[str]:
    """The guidance branches of the fullest step are those declared; others have no more."""
    steps: dict[tuple[int, int], list[str]] = {}
    for record in (record for own in records for record in own):
        branches = steps.setdefault((record.generation, record.step), [])
        if record.branch not in branches:
            branches.append(record.branch)
    full = max(steps.values(), key=len, default=[])
    if full != run.loop.branches:
        yield f"a full step has the branches {full}, expected {run.loop.branches}"
    for (generation, step), branches in steps.items():
        if not set(branches) <= set(full):
            yield f"generation {generation}, step {step} has the branches {branches}"
    made = len(steps_of(run.calls))
    # Of several denoisers each counts from 0: they share the steps, or come one after another.
    own = {(n, r.generation, r.step) for n, model in enumerate(records) for r in model}
    counted = (len(steps), len(own))
    if run.spec.timestep is not None and not run.strategy.whole and made not in counted:
        yield f"{len(steps)} steps were counted, but the loop has {made}"


def _ran(run: _Run, plain: _Run, records: Sequence[Sequence[StepRecord]]) -> Iterator[str]:
    """Which calls ran their units: all of them, but in every other step of each branch."""
    skipped = 0
    for number, own in enumerate(records):
        before = [call for call in plain.calls if call.number == number]
        after = [call for call in run.calls if call.number == number]
        if len(own) != len(before):
            yield f"{len(own)} calls of denoiser {number} were counted, it has {len(before)}"
            continue
        ready: dict[tuple[int, str], tuple] = {}
        for record, call in zip(own, before, strict=True):
            key = record.generation, record.branch
            skip = record.step % 2 == 1 and ready.get(key) == call.shapes
            ready[key] = call.shapes
            skipped += skip
            if run.strategy.whole:
                wrong = record.whole is not skip
            else:
                got = after.pop(0).ran
                wrong = got != call.ran if not skip else not _left_out(run.strategy, got, call.ran)
            if wrong:
                expected = "be skipped" if skip else "be computed"
                yield (
                    f"denoiser {number}, generation {record.generation}, step {record.step}, "
                    f"branch {record.branch} should {expected}; the record says {record.action}"
                )
                return
        if run.strategy.whole and len(after) != sum(not record.whole for record in own):
            yield f"denoiser {number} ran {len(after)} times"
    if not skipped:
        yield "no step could be skipped; let the call have at least 2 steps"


def _left_out(strategy: _Strategy, got: set[str], plain: set[str]) -> bool:
    return not got if strategy.all_of_them else got < plain


def _scale(spec: Spec, scheduled: Sequence[float], given: Sequence[float | None]) -> Iterator[str]:
    """Where the scheduler's timesteps follow from the argument's on a line, the line is known."""
    times = [time for time in given if time is not None]
    if len(times) != len(scheduled) or len(set(times)) < 3:
        return
    near = 0.01 * max(abs(time) for time in scheduled)
    scale, offset = spec.timestep_scale, spec.timestep_offset

    def off(scale: float, offset: float) -> float:
        pairs = zip(times, scheduled, strict=True)
        return max(abs(scale * time + offset - expected) for time, expected in pairs)

    fitted, shift = (float(number) for number in np.polyfit(times, scheduled, 1))
    if off(scale, offset) > near >= off(fitted, shift):
        yield (
            f"the scheduler's timestep is {fitted:.4g} times the argument plus {shift:.4g}, "
            f"declared are timestep_scale {scale:g} and timestep_offset {offset:g}"
        )


def _modules(pipe: Any) -> list[nn.Module]:
    components = getattr(pipe, "components", None) or vars(pipe)
    return [part for part in components.values() if isinstance(part, nn.Module)]
