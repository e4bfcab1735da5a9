"""The step x block map: what was done at each place in each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocache.stats_rows import LETTERS

CELLS = 20_000
"""Most cells on a page, those of the latest generations: more would stall a browser."""

Step = Mapping[str, Any]


@dataclass(frozen=True)
class Map:
    """One guidance branch of one denoiser in one generation.

    `rows` are a place's name and what was done there in each step of `steps`.
    """

    generation: int
    denoiser: str
    branch: str
    steps: tuple[int, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def cells(self) -> int:
        return len(self.steps) * len(self.rows)


def number(value: Any) -> float | None:
    """A number as JSON holds it, where what is not finite is a string; None for anything else."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def grouped(steps: Iterable[Step]) -> dict[tuple[int, str, str], list[Step]]:
    """The steps of each generation, denoiser and branch, in the order in which they began."""
    groups: dict[tuple[int, str, str], list[Step]] = {}
    for step in steps:
        key = (int(step["generation"]), str(step["denoiser"]), str(step["branch"]))
        groups.setdefault(key, []).append(step)
    return groups


def latest(steps: Sequence[Step]) -> list[Step]:
    """The steps of the last generation of each denoiser: experts count theirs each for itself."""
    last: dict[str, int] = {}
    for step in steps:
        denoiser = str(step["denoiser"])
        last[denoiser] = max(last.get(denoiser, 0), int(step["generation"]))
    return [step for step in steps if int(step["generation"]) == last[str(step["denoiser"])]]


def maps(steps: Sequence[Step]) -> list[Map]:
    """A map per generation, denoiser and branch, the latest generation first."""
    made = [_map(*key, group) for key, group in grouped(steps).items()]
    return sorted(made, key=lambda map_: -map_.generation)


def fitting(every: Sequence[Map], limit: int = CELLS) -> list[Map]:
    """As many of them as a page can hold, and one at least."""
    count, chosen = 0, []
    for map_ in every:
        count += map_.cells
        if chosen and count > limit:
            break
        chosen.append(map_)
    return chosen


def _map(generation: int, denoiser: str, branch: str, steps: Sequence[Step]) -> Map:
    places = list(dict.fromkeys(name for step in steps for name in step.get("sites") or {}))
    rows = [(name, tuple(_at(step, name) for step in steps)) for name in places]
    if not rows:
        rows = [("whole step", tuple(_known(step.get("action")) for step in steps))]
    numbers = tuple(int(step["step"]) for step in steps)
    return Map(generation, denoiser, branch, numbers, tuple(rows))


def _at(step: Step, place: str) -> str:
    # What no strategy acted on ran, unless nothing of the denoiser did.
    otherwise = step.get("action") if step.get("whole") else "computed"
    return _known((step.get("sites") or {}).get(place, otherwise))


def _known(action: Any) -> str:
    return action if action in LETTERS else "computed"
