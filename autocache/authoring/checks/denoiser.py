"""Strategies of the whole call: nothing runs when it is skipped, and outputs keep their form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autocache.authoring.checks.subject import (
    STEPS,
    Subject,
    counted,
    difference,
    structure,
)
from autocache.how import Reuse
from autocache.spec.bind import signature
from autocache.when import Interval
from autocache.where import Denoiser


def whole_calls(subject: Subject) -> Iterator[str]:
    """Reuse of the output, with and without `return_dict`, and EasyCache's of its residual."""
    yield from _reuses(subject)
    if "return_dict" in signature(type(subject.model)).names:
        yield from _reuses(subject, return_dict=True)
    yield from _easycache(subject)


def _reuses(subject: Subject, **changes: Any) -> Iterator[str]:
    label = "".join(f" with {name}={value}" for name, value in changes.items())
    model, plain = subject.fresh(), subject.fresh()
    subject.patch(model, when=Interval(2, start=0), where=Denoiser(), how=Reuse())
    kept: Any = None
    for step in range(STEPS):
        skip = step % 2 == 1
        with counted(model) as ran:
            output = subject.call(model, step, **changes)
        if bool(ran) is skip:
            expected = "none" if skip else "all of them"
            yield f"step {step}{label}: {len(ran)} modules ran, expected {expected}"
            return
        kept = kept if skip else subject.call(plain, step, **changes)
        differs = difference(output, kept)
        if differs:
            yield f"step {step}{label}: not the output of the last computed step: {differs}"
            return


def _easycache(subject: Subject) -> Iterator[str]:
    model = subject.fresh()
    patch = subject.patch(model, "easycache", threshold=1e9, warmup_steps=2)
    skipped = 0
    for step in range(STEPS):
        with counted(model) as ran:
            output = subject.call(model, step)
        if structure(output) != structure(subject.plain[step]):
            yield (
                f"easycache: step {step}: got {structure(output)}, "
                f"expected {structure(subject.plain[step])}"
            )
            return
        skipped += not ran
    told = sum(record.whole for record in patch.stats().steps)
    if not skipped or told != skipped:
        hint = "" if _has_latent(subject) else "; which argument is the latent? Name it by latent:"
        yield f"easycache: {skipped} of {STEPS} calls were skipped, and it tells of {told}{hint}"


def _has_latent(subject: Subject) -> bool:
    names = subject.spec.latent_names
    return any(name in signature(type(subject.model)).names for name in names)
