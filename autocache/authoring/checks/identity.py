"""A patch that never skips changes nothing, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autocache.authoring.checks.subject import STEPS, Subject, difference, left_behind, traces
from autocache.how import Reuse
from autocache.when import Interval
from autocache.where import Denoiser, Submodules


def never_skips(subject: Subject) -> Iterator[str]:
    """Every kind of strategy, set so that it computes every step, equals the unpatched model.

    A dry run of one that does skip keeps what it would need and computes all the same.
    """
    for label, options in _patches(subject):
        model = subject.fresh()
        before = traces(model)
        patch = subject.patch(model, **options)
        for step in range(STEPS):
            differs = difference(subject.call(model, step), subject.plain[step])
            if differs:
                yield f"{label}: step {step}: {differs}"
                break
        patch.unpatch()
        changed = left_behind(model, before)
        if changed:
            yield f"{label}: unpatching did not restore {', '.join(changed)}"


def _patches(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    bound = subject.bound
    every_other = Interval(2, start=0)
    if bound.block_count:
        block = {"strategy": "dit_block", "step_start": 0, "blocks": None}
        yield "dit_block with step_interval=1", {**block, "step_interval": 1}
        yield "a dry run of dit_block", {**block, "step_interval": 2, "dry_run": True}
        if subject.spec.teacache:
            table = subject.spec.teacache[0].id
            options = {"strategy": "teacache", "threshold": 0.0, "table": table}
            yield "teacache with threshold=0", options
    kinds = tuple(sorted(bound.attention_kinds))
    if kinds:
        options = {"strategy": "attention", "kinds": kinds, "step_start": 0}
        yield "attention with step_interval=1", {**options, "step_interval": 1}
    inside = Submodules(attention=kinds, feed_forward=True)
    if kinds or bound.feed_forward or any(stack.spec.feed_forward for stack in bound.stacks):
        parts = {"when": every_other, "where": inside, "how": Reuse(), "dry_run": True}
        yield "a dry run of reusing attention and feed-forward", parts
    yield "easycache with threshold=0", {"strategy": "easycache", "threshold": 0.0}
    parts = {"when": every_other, "where": Denoiser(), "how": Reuse(), "dry_run": True}
    yield "a dry run of reusing whole calls", parts
