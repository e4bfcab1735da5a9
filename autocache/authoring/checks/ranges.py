"""Each declared range skips exactly the blocks it names, and recomposes exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from autocache.authoring.checks.reference import Arguments, Plan, Recomposed
from autocache.authoring.checks.subject import (
    STEPS,
    NotApplicable,
    Subject,
    counted,
    difference,
)


def ranges(subject: Subject) -> Iterator[str]:
    """Ranges of each stack, and of all together, against the definition of skipping."""
    if not subject.bound.block_count:
        raise NotApplicable(subject.spec.no_blocks or "there are no block stacks")
    wrong = list(_run_once(subject))
    yield from wrong
    for plan in () if wrong else _plans(subject):
        yield from _recomposes(subject, plan)


def _run_once(subject: Subject) -> Iterator[str]:
    """Every block runs once per call, or skipping it would mean something else."""
    for stack in subject.bound.stacks:
        if not stack.blocks:
            yield f"{stack.path} is empty in the tiny model, so nothing about it is proven"
        runs = [subject.runs[f"{stack.path}.{nth}"] for nth in range(len(stack.blocks))]
        if any(count != 1 for count in runs):
            times = ", ".join(map(str, runs))
            yield f"{stack.path}: its blocks run {times} times in one call; expected once each"


def _plans(subject: Subject) -> Iterator[Plan]:
    lengths = {stack.path: len(stack.blocks) for stack in subject.bound.stacks}
    yield {path: (0, count) for path, count in lengths.items()}
    if len(lengths) > 1:
        yield {path: (min(1, count - 1), count) for path, count in lengths.items()}
        yield from ({path: (0, count)} for path, count in lengths.items())
    for path, count in lengths.items():
        # A long skip connection leads out of the first half, and another list between all blocks.
        parts = {(0, count - count // 2), (1, count - 1), (1, count), (1, 2)}
        yield from ({path: (a, b)} for a, b in sorted(parts) if a < b <= count and b - a < count)


def _recomposes(subject: Subject, plan: Plan) -> Iterator[str]:
    model, plain = subject.fresh(), subject.fresh()
    stacks = {stack.path: stack for stack in subject.spec.stacks}
    reference = Recomposed(plain, stacks, plan)
    patch = subject.patch(model, "dit_block", step_start=0, step_interval=2, blocks=dict(plan))
    whole = len(plan) == len(stacks)
    for step in range(STEPS if whole else 2):
        reference.skipping = skip = step % 2 == 1
        with counted(model) as ran:
            output = subject.call(model, step)
        at = f"{_shown(plan)}: step {step}"
        wrong = _wrong_blocks(subject, plan if skip else {}, ran)
        if wrong:
            yield f"{at}: {wrong}"
            return
        named = sum(end - start for start, end in plan.values()) if skip else 0
        told = patch.stats().steps[-1].blocks_skipped
        if told != named:
            yield f"{at}: the record tells of {told} skipped blocks, expected {named}"
        differs = difference(output, subject.call(plain, step))
        if differs:
            yield f"{at}: not what went in plus the residual: {differs}{_why(subject, plan, step)}"
            return
        # Single stacks may have nothing to do with time, such as those for an image to edit.
        if whole and skip and difference(output, subject.plain[step]) is None:
            yield f"{at}: the skipped blocks make no difference to the output"


def _wrong_blocks(subject: Subject, skipped: Plan, ran: Counter[str]) -> str | None:
    """Which blocks ran and should not have, or the other way round."""
    for stack in subject.bound.stacks:
        start, end = skipped.get(stack.path, (0, 0))
        expected = [nth for nth in range(len(stack.blocks)) if not start <= nth < end]
        got = [nth for nth in range(len(stack.blocks)) if ran[f"{stack.path}.{nth}"]]
        if got != expected:
            reason = _shapes(subject, stack.path, start, end) if skipped else ""
            return f"of {stack.path} ran {got}, expected {expected}{reason}"
    return None


def _shapes(subject: Subject, path: str, start: int, end: int) -> str:
    """Says so when a stream changes its shape on the way, and so has no residual."""
    model = subject.fresh()
    arguments = Arguments(next(stack for stack in subject.spec.stacks if stack.path == path))
    blocks = list(model.get_submodule(path).children())
    before: dict[str, list[int]] = {}
    after: dict[str, list[int]] = {}

    def enters(module: nn.Module, args: tuple, kwargs: dict) -> None:
        before.update(_sizes(arguments.entering(module, args, kwargs)))

    def leaves(module: nn.Module, args: tuple, output: Any) -> None:
        after.update(_sizes(arguments.returned(output)))

    blocks[start].register_forward_pre_hook(enters, with_kwargs=True)
    blocks[end - 1].register_forward_hook(leaves)
    subject.call(model, 0)
    changed = [
        f"{name} goes in as {before[name]} and comes out as {after[name]}"
        for name in before
        if after.get(name, before[name]) != before[name]
    ]
    return f"; {' and '.join(changed)}" if changed else ""


def _sizes(streams: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in streams.items() if value is not None}


def _why(subject: Subject, plan: Plan, step: int) -> str:
    """A way out, where blocks within the range are listened to by more than the next one."""
    stacks = {stack.path: stack for stack in subject.spec.stacks}
    model, plain = subject.fresh(), subject.fresh()
    subject.patch(model, "dit_block", step_start=0, step_interval=2, blocks=dict(plan))
    reference = Recomposed(plain, stacks, plan, idle=True)
    same = True
    for now in range(step + 1):
        reference.skipping = now % 2 == 1
        same = difference(subject.call(model, now), subject.call(plain, now)) is None
    if not same:
        return ""
    return (
        "; what a block inside the range returns is used by more than the next block (a long "
        "skip connection, another list in turns), which wants each: true"
    )


def _shown(plan: Plan) -> str:
    return ", ".join(f"{path}[{start}:{end}]" for path, (start, end) in plan.items())
