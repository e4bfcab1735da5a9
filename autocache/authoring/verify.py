"""Proving a spec with the tiny real model of its `proof`."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocache.authoring.checks.builds import builds
from autocache.authoring.checks.denoiser import whole_calls
from autocache.authoring.checks.hand_over import streams
from autocache.authoring.checks.identity import never_skips
from autocache.authoring.checks.invariant import invariant
from autocache.authoring.checks.levels import levels
from autocache.authoring.checks.pipelines import pipeline
from autocache.authoring.checks.probes import probes
from autocache.authoring.checks.ranges import ranges
from autocache.authoring.checks.signatures import signatures
from autocache.authoring.checks.subject import NotApplicable, Subject
from autocache.authoring.checks.submodules import attention, feed_forward
from autocache.authoring.instance import loop_of, proof_of
from autocache.errors import AutocacheError
from autocache.quiet import quiet
from autocache.spec import registry
from autocache.spec.schema import Spec

Outcome = Literal["passed", "failed", "not applicable"]

CHECKS: dict[str, Callable[[Subject], Iterator[str]]] = {
    "signatures": signatures,
    "streams": streams,
    "ranges": ranges,
    "never skips": never_skips,
    "attention": attention,
    "feed-forward": feed_forward,
    "probes": probes,
    "invariant": invariant,
    "levels": levels,
    "whole calls": whole_calls,
}
"""What is proven of a model that builds and binds, in this order."""

MARKS = {"passed": "ok", "failed": "FAILED", "not applicable": "-"}


@dataclass(frozen=True)
class Check:
    """One thing that was to be proven; `reason` has one line for each problem, or why it does not
    apply."""

    name: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What was proven of one spec."""

    spec: str
    file: str | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; the spec is proven when there are none."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def seconds(self) -> float:
        return sum(check.seconds for check in self.checks)

    def __str__(self) -> str:
        return table([self])


Given = str | Path | Spec
"""A spec: its name, its file, or itself."""


def verify(spec: Given | Sequence[Given] | None = None, *, pipelines: bool = True) -> list[Report]:
    """Prove specs on the tiny models of their proofs.

    Args:
        spec: a spec, or several of them; None is every known one.
        pipelines: whether the tiny pipelines are run too.

    A spec that fails is in the reports. Raises UnknownModelError when no spec has a given name,
    SpecError when a file cannot be read or is malformed.
    """
    return list(reports(spec, pipelines=pipelines))


def reports(
    spec: Given | Sequence[Given] | None = None, *, pipelines: bool = True
) -> Iterator[Report]:
    """As `verify`, one report at a time."""
    if spec is None:
        spec = [info.model for info in registry.specs()]
    given = [spec] if isinstance(spec, str | Path | Spec) else list(spec)
    for one in [registry.resolve(one, None) for one in given]:
        with quiet():
            checks = _model(one)
            if pipelines and checks[0].outcome == "passed":
                checks += [_pipeline(one, label) for label in proof_of(one).pipelines]
        yield _report(one, checks)


def verify_pipeline(spec: Given, label: str) -> Report:
    """Run one of the tiny pipelines of a spec's proof, and prove nothing else.

    Raises as `verify` does, and SpecError when the proof has no pipeline of that label.
    """
    found = registry.resolve(spec, None)
    loop_of(found, label)
    with quiet():
        return _report(found, [_pipeline(found, label)])


def _model(spec: Spec) -> list[Check]:
    subject = Subject(spec)
    first = _run("builds and binds", lambda: builds(subject))
    if first.outcome == "failed":
        return [first]
    return [first, *(_run(name, lambda one=check: one(subject)) for name, check in CHECKS.items())]


def _pipeline(spec: Spec, label: str) -> Check:
    return _run(f"pipeline {label}", lambda: pipeline(Subject(spec), label))


def _report(spec: Spec, checks: Sequence[Check]) -> Report:
    return Report(spec.name, str(spec.file) if spec.file else None, tuple(checks))


def _run(name: str, check: Callable[[], Iterator[str]]) -> Check:
    started = time.perf_counter()
    outcome: Outcome
    try:
        problems = list(check())
        outcome, reason = ("failed", "\n".join(problems)) if problems else ("passed", "")
    except NotApplicable as why:
        outcome, reason = "not applicable", str(why)
    except AutocacheError as error:
        outcome, reason = "failed", str(error)
    except Exception as error:
        # Whatever a model in a pipeline raises is a finding about the spec.
        outcome, reason = "failed", _where(error)
    return Check(name, outcome, reason, time.perf_counter() - started)


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (in {last.name}, {last.filename}:{last.lineno})"


def table(reports: Iterable[Report]) -> str:
    """A line for every spec, and below it what failed and why."""
    lines = []
    for report in reports:
        passed = sum(check.outcome == "passed" for check in report.checks)
        verdict = f"{len(report.failed)} FAILED" if report.failed else "proven"
        lines.append(f"{report.spec:<44} {verdict:<10} {passed:>3} ok  {report.seconds:6.1f} s")
        for check in report.failed:
            first, *others = check.reason.split("\n")
            lines.append(f"    {check.name}: {first}")
            lines += [f"        {line}" for line in others]
    return "\n".join(lines)


def as_json(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """The reports, ready for JSON."""
    return [
        {**dataclasses.asdict(report), "proven": not report.failed, "seconds": report.seconds}
        for report in reports
    ]
