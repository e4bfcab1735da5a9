"""Attention and feed-forward: each declared module runs, and reusing them does just that."""

from __future__ import annotations

from collections.abc import Iterator

from autocache.authoring.checks.reference import Reused
from autocache.authoring.checks.subject import STEPS, NotApplicable, Subject, counted, difference
from autocache.how import Reuse
from autocache.when import Interval
from autocache.where import Submodules


def attention(subject: Subject) -> Iterator[str]:
    """Attention modules, of every kind, within the blocks and outside them."""
    names = _attention(subject)
    if not names:
        raise NotApplicable("no attention is declared")
    kinds = tuple(sorted(subject.bound.attention_kinds))
    yield from _declared(subject, names, Submodules(attention=kinds))


def feed_forward(subject: Subject) -> Iterator[str]:
    """Feed-forward modules, within the blocks and outside them."""
    names = _feed_forward(subject)
    if not names:
        raise NotApplicable("no feed-forward is declared")
    yield from _declared(subject, names, Submodules(feed_forward=True))


def _declared(subject: Subject, names: list[str], where: Submodules) -> Iterator[str]:
    wrong = list(_runs(subject, names))
    yield from wrong
    if not wrong:
        yield from _reuses(subject, names, where)


def _attention(subject: Subject) -> list[str]:
    """The paths of all declared attention modules."""
    inside = [
        f"{stack.path}.{nth}.{path}"
        for stack in subject.bound.stacks
        for nth in range(len(stack.blocks))
        for path, _, _ in stack.attention(nth)
    ]
    return inside + [name for name, _, _ in subject.bound.attention]


def _feed_forward(subject: Subject) -> list[str]:
    inside = [
        f"{stack.path}.{nth}.{path}"
        for stack in subject.bound.stacks
        for nth in range(len(stack.blocks))
        for path, _ in stack.feed_forward(nth)
    ]
    return inside + [name for name, _ in subject.bound.feed_forward]


def _runs(subject: Subject, names: list[str]) -> Iterator[str]:
    """Each is declared once and runs: attention once, a feed-forward perhaps for text and image."""
    attention = set(_attention(subject))
    for name in names:
        runs = subject.runs[name]
        if names.count(name) > 1 or any(name.startswith(f"{other}.") for other in names):
            yield f"{name} is declared twice, by itself or within another"
        elif not runs or (runs > 1 and name in attention):
            yield f"{name} runs {runs} times in one call; expected once"


def _reuses(subject: Subject, names: list[str], where: Submodules) -> Iterator[str]:
    model, plain = subject.fresh(), subject.fresh()
    reference = Reused([(plain.get_submodule(name), subject.runs[name]) for name in names])
    subject.patch(model, when=Interval(2, start=0), where=where, how=Reuse())
    for step in range(STEPS):
        reference.skipping = skip = step % 2 == 1
        with counted(model) as ran:
            output = subject.call(model, step)
        wrong = [name for name in names if (ran[name] == 0) is not skip]
        if wrong:
            did = "ran" if skip else "did not run"
            yield f"step {step}: {wrong[0]} {did} when reused every other step"
            return
        differs = difference(output, subject.call(plain, step))
        if differs:
            yield f"step {step}: not what reusing the outputs gives: {differs}"
            return
        if skip and difference(output, subject.plain[step]) is None:
            yield f"step {step}: reusing all of them makes no difference to the output"
