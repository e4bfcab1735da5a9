"""The speed-up in words: how much faster it was, and why not faster still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocache.reporting.maps import number

Run = Mapping[str, Any]


def share(run: Run, kind: str) -> float | None:
    """Share of block, attention, feed-forward or denoiser calls that were run; None for unknown."""
    calls = run.get(f"{kind}_calls") or {}
    total = number(calls.get("total"))
    return (number(calls.get("run")) or 0.0) / total if total else None


def is_dry(run: Run) -> bool:
    """Whether it was a dry run: steps say what would have been done, and at what error."""
    return bool(run.get("dry_run"))


def skipped(run: Run) -> bool:
    """Whether anything was filled in, or would have been."""
    return any(_skips(step) for step in run.get("steps") or ())


def _skips(step: Run) -> bool:
    done = (step.get("action", "computed"), *(step.get("sites") or {}).values())
    return any(action != "computed" for action in done)


def seconds(run: Run, name: str) -> float | None:
    """Seconds in the denoiser, or those saved."""
    return number((run.get("seconds") or {}).get(name))


def times(run: Run) -> dict[str, float]:
    """Where the time of the pipeline's calls went, as far as it is known."""
    given = (run.get("seconds") or {}).get("pipeline") or {}
    return {name: took for name in given if (took := number(given[name])) is not None}


def components(run: Run, *phases: str) -> dict[str, float]:
    """Seconds of the components that are no denoisers, by name, in phases of the call."""
    given = ((run.get("seconds") or {}).get("pipeline") or {}).get("components") or ()
    found: dict[str, float] = {}
    for part in given:
        took = number(part.get("seconds"))
        if part.get("phase") in phases and took is not None:
            found[part["name"]] = found.get(part["name"], 0.0) + took
    return found


def answer(run: Run) -> list[str]:
    """What a reader wants to know first, a sentence each."""
    if not run.get("passes"):
        return ["Nothing was run yet: the pipeline was not called since it was patched."]
    if is_dry(run):
        steps = run["steps"]
        would = sum(_skips(step) for step in steps)
        return [
            f"This was a dry run: everything was computed. Something would have been skipped in "
            f"{would} of {len(steps)} denoiser calls."
        ]
    if not skipped(run) and all(share(run, kind) in (1.0, None) for kind in ("block", "denoiser")):
        return ["Nothing was skipped: it ran no faster than without caching."]
    blocks, saved = share(run, "block"), seconds(run, "saved")
    said = [_calls(run, blocks)]
    if saved is None:
        said.append(
            "How much time that saved is not known: no step was computed in full beside it."
        )
        return said
    took = seconds(run, "denoiser") or 0.0
    if saved <= 0:
        said.append(f"That saved no time: the denoiser took {took:.2f} s.")
    else:
        said.append(
            f"The denoiser took {took:.2f} s in place of {took + saved:.2f} s, had every step "
            f"taken what the computed ones of this run took: {_ratio(took, saved)} as fast."
        )
    return [*said, *_whole(run, saved)]


def _calls(run: Run, blocks: float | None) -> str:
    if blocks is None:
        calls = share(run, "denoiser")
        return f"{calls:.0%} of the denoiser's calls were run." if calls is not None else ""
    return f"{blocks:.0%} of the block calls were run, {1 - blocks:.0%} were skipped."


def _ratio(took: float, saved: float) -> str:
    return f"{(took + saved) / took:.2f} times" if took > 0 else "far more than twice"


def _whole(run: Run, saved: float) -> list[str]:
    """What became of the whole call, of which caching touches the denoiser only."""
    call = times(run).get("call")
    inside = times(run).get("denoiser")
    if not call or inside is None or saved <= 0:
        return []
    rest = max(call - inside, 0.0)
    said = (
        f"The pipeline's whole call took {call:.2f} s in place of {call + saved:.2f} s: "
        f"{(call + saved) / call:.2f} times as fast, {saved / (call + saved):.0%} shorter."
    )
    limit = (
        f" {rest:.2f} s of it ({rest / call:.0%}) were outside the denoiser, where caching saves "
        f"nothing{_most(run, rest)}."
    )
    return [said + limit]


def _most(run: Run, rest: float) -> str:
    """The component that took most of the time outside the denoiser, where one took half."""
    parts = components(run, "before", "between", "after")
    name = max(parts, key=lambda part: parts[part], default="")
    if not name or parts[name] < rest / 2:
        return ""
    return f": {parts[name]:.2f} s in {name}"
