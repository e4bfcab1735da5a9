"""What a page shows of one run, from its statistics as they stand in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocache.reporting import answer, charts, maps
from autocache.reporting.charts import Chart
from autocache.reporting.maps import Map, Step, number
from autocache.runtime.sizes import readable_bytes

KINDS = {
    "denoiser": "denoiser calls",
    "block": "block calls",
    "attention": "attention calls",
    "feed_forward": "feed-forward calls",
}
PARTS = {
    "before": "before the first step (text encoder, loading)",
    "denoiser": "denoiser",
    "between": "between steps (scheduler, ControlNet, callbacks)",
    "after": "after the last step (VAE)",
}


@dataclass(frozen=True)
class Share:
    """A named part of a whole, as a bar: `part` is from 0 to 1."""

    name: str
    value: str
    part: float


@dataclass(frozen=True)
class RunView:
    """A run, ready to be shown."""

    title: str
    model: str
    answer: list[str]
    warnings: list[str]
    figures: list[tuple[str, str, str]]
    dry: bool
    maps: list[Map]
    left_out: int
    charts: list[Chart]
    time: list[Share]
    branches: list[list[str]]
    memory: list[Share]
    parameters: list[tuple[str, str]]


def view(run: Mapping[str, Any]) -> RunView:
    """A run as a page shows it."""
    steps: Sequence[Step] = run.get("steps") or ()
    every = maps.maps(steps)
    shown = maps.fitting(every)
    dry = answer.is_dry(run)
    return RunView(
        title=str(run.get("strategy")),
        model=str(run.get("model") or ""),
        answer=[sentence for sentence in answer.answer(run) if sentence],
        warnings=_warnings(run),
        figures=_figures(run),
        dry=dry,
        maps=shown,
        left_out=len(every) - len(shown),
        charts=drawn(steps),
        time=_time(run),
        branches=[_branch(entry) for entry in run.get("branches") or ()],
        memory=_memory(run),
        parameters=_parameters(run),
    )


def _warnings(run: Mapping[str, Any]) -> list[str]:
    said = [str(warning) for warning in run.get("warnings") or ()]
    if not said and run.get("not_finite"):
        said.append(f"What was measured was NaN or Inf in {run['not_finite']} calls.")
    return said


def _figures(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Heading, value, and what it is of."""
    found = []
    for kind, heading in KINDS.items():
        calls = run.get(f"{kind}_calls") or {}
        part = answer.share(run, kind)
        if part is not None:
            found.append((f"{heading} run", f"{part:.0%}", f"{calls['run']} of {calls['total']}"))
    took, saved = answer.seconds(run, "denoiser"), answer.seconds(run, "saved")
    if took is not None:
        of = f"{saved:.2f} s saved" if saved is not None else "time saved not known"
        found.append(("time in the denoiser", f"{took:.2f} s", of))
    peak = number((run.get("bytes") or {}).get("peak"))
    if peak is not None:
        limit = number((run.get("bytes") or {}).get("limit"))
        of = f"of {readable_bytes(limit)} allowed" if limit is not None else "at most, in tensors"
        found.append(("memory for the cache", readable_bytes(peak), of))
    return found


def drawn(steps: Sequence[Step]) -> list[Chart]:
    """The curves of the latest generation, those that have a value."""
    last = maps.latest(steps)
    groups = maps.grouped(last)
    several = len({denoiser for _, denoiser, _ in groups}) > 1

    def series(field: str, scale: float = 1.0) -> list[tuple[str, charts.Points]]:
        return [
            (
                f"{denoiser}, {branch}" if several else branch,
                [
                    (float(s["step"]), None if (y := number(s.get(field))) is None else y * scale)
                    for s in group
                ],
            )
            for (_, denoiser, branch), group in groups.items()
        ]

    limits = [
        (f"threshold, {name}", points)
        for name, points in series("threshold")
        if any(y is not None for _, y in points)
    ]
    if len({tuple(points) for _, points in limits}) == 1:
        limits = [("threshold", limits[0][1])]
    made = [
        charts.curves("Probe distance by step", "", series("distance"), limits),
        charts.curves("Error by step, had it been skipped", "", series("error"), []),
        charts.bars(
            "Time by denoiser call",
            " ms",
            [_bar(step) for step in last],
            [str(step["step"]) for step in last],
        ),
        charts.curves("Cached tensors by step", " MiB", series("bytes", 1 / 2**20), []),
    ]
    return [chart for chart in made if chart is not None]


def _bar(step: Step) -> tuple[float, str, str]:
    took = (number(step.get("seconds")) or 0.0) * 1000
    action = step.get("action") if step.get("action") in maps.LETTERS else "computed"
    return took, str(action), f"step {step['step']}, {step['branch']}: {action}, {took:.1f} ms"


def _time(run: Mapping[str, Any]) -> list[Share]:
    spent = answer.times(run)
    call = spent.get("call")
    if not call:
        return []
    found = []
    for phase, name in PARTS.items():
        if phase in spent:
            found.append(_spent(name, spent[phase], call))
        parts = answer.components(run, phase)
        found += [_spent(f"of which {part}", took, call) for part, took in parts.items()]
    return found


def _spent(name: str, took: float, call: float) -> Share:
    return Share(name, f"{took:.2f} s, {took / call:.0%}", _part(took, call))


def _part(value: float, whole: float) -> float:
    return min(max(value / whole, 0.0), 1.0) if whole else 0.0


def _branch(entry: Mapping[str, Any]) -> list[str]:
    saved, took = number(entry.get("seconds_saved")), number(entry.get("seconds"))
    calls = [entry.get(kind) or {} for kind in ("blocks", "attention", "feed_forward")]
    return [
        *(str(entry.get(name, "")) for name in ("generation", "denoiser", "branch")),
        *(str(entry.get(name, "")) for name in maps.LETTERS),
        *(f"{one['share']:.0%}" if one.get("total") else "–" for one in calls),
        f"{took:.2f} s" if took is not None else "–",
        f"{saved:.2f} s" if saved is not None else "not known",
    ]


def _memory(run: Mapping[str, Any]) -> list[Share]:
    places = (run.get("bytes") or {}).get("places") or ()
    peaks = [number(place.get("peak")) or 0.0 for place in places]
    several = len({place.get("denoiser") for place in places}) > 1
    found = []
    for place, peak in zip(places, peaks, strict=True):
        name = f"{place.get('denoiser')}: {place.get('name')}" if several else place.get("name")
        kept = [readable_bytes(peak), place.get("form"), place.get("device")]
        found.append(
            Share(str(name), ", ".join(str(k) for k in kept if k), _part(peak, max(peaks)))
        )
    return sorted(found, key=lambda entry: -entry.part)


def _parameters(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    listed = {"strategy": run.get("strategy"), **(run.get("parameters") or {})}
    for name in ("profile", "spec_file"):
        if run.get(name):
            listed[name.replace("_", " ")] = run[name]
    return [(str(name), "none" if value is None else str(value)) for name, value in listed.items()]
