"""What a spec holds of published figures, and which checkpoint they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field

from autocache.spec.facts import Facts, Name, Number

MATCH = "Values of the checkpoint's config, all of which must be equal; of a list, any one."
CHECKPOINTS = "Repositories of the checkpoints, as owner/name; they go before `match`."
Steps = Annotated[int, Field(ge=1, description="Denoising steps it was published for.")]
Scheduler = Annotated[str, Field(description="Class of the scheduler it was measured with.")]
Source = Annotated[Name, Field(description="Where it was published, as repository:file:line.")]
FittedOn = Annotated[
    Name,
    Field(description="The checkpoint a borrowed table was fitted on, none of `checkpoints`."),
]


class TeaCacheTable(Facts):
    """One published TeaCache polynomial and the checkpoint it was fitted on."""

    id: Name = Field(description="What the parameter `table` of teacache calls it.")
    match: dict[str, Any] = Field(default={}, description=MATCH)
    checkpoints: list[Name] = Field(default=[], description=CHECKPOINTS)
    probe: Name = Field(description="The probe, of those in `probes`, that it rescales.")
    coefficients: Annotated[list[Number], Field(min_length=1)] = Field(
        description="Coefficients of the polynomial, the highest order first."
    )
    thresholds: list[Number] = Field([], description="The published ones, gentlest first.")
    ret_steps: bool = Field(
        False, description="Whether it was fitted without the first steps of the schedule."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        1, description="First steps that are always computed."
    )
    force_last: bool = Field(True, description="Whether the last step is always computed.")
    valid_for: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = Field(
        None, description="The least and the largest change of the probe it was fitted to."
    )
    r2: Number | None = Field(
        None, description="Share of the variance that it explains on inputs it was not fitted to."
    )
    steps: Steps | None = None
    scheduler: Scheduler | None = None
    provenance: Literal["official", "lightx2v", "community", "bundled", "calibrated"] = Field(
        description="Who fitted it; `calibrated` is what autocache calibrate writes."
    )
    fitted_on: FittedOn | None = None
    source: Source


class Preset(Facts):
    """Published parameters of one strategy, and the step count they were published for."""

    match: dict[str, Any] = Field(default={}, description=MATCH)
    checkpoints: list[Name] = Field(default=[], description=CHECKPOINTS)
    steps: Steps | None = None
    parameters: dict[str, Any] = Field(description="Parameters of the strategy, by name.")
    source: Source


class MagCacheTable(Facts):
    """Published magnitude ratios: by guidance branch, one per step of the calibration run."""

    id: Name = Field(description="What the parameter `table` of magcache calls it.")
    match: dict[str, Any] = Field(default={}, description=MATCH)
    checkpoints: list[Name] = Field(default=[], description=CHECKPOINTS)
    ratios: dict[Literal["all", "cond", "uncond"], Annotated[list[Number], Field(min_length=2)]] = (
        Field(description="Ratios of one step's residual to the one before, by guidance branch.")
    )
    threshold: Number | None = Field(default=None, description="The published accumulated error.")
    max_consecutive_skips: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The published limit of steps skipped in a row."
    )
    retention: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of the first steps that are always computed."
    )
    spread: Number | None = Field(
        default=None, description="Standard deviation of a step's ratio between inputs."
    )
    scheduler: Scheduler | None = None
    fitted_on: FittedOn | None = None
    source: Source


class Entry(Protocol):
    """What tables and presets share: the checkpoints they belong to."""

    @property
    def match(self) -> dict[str, Any]: ...

    @property
    def checkpoints(self) -> list[str]: ...


E = TypeVar("E", bound=Entry)


def matches(
    entry_match: Mapping[str, Any],
    entry_checkpoints: Sequence[str],
    config: Mapping[str, Any],
    name: str | None = None,
) -> bool:
    """Whether a table or preset belongs to a checkpoint.

    It does when `name` (by default `_name_or_path` of the config) is one of the checkpoints, or
    when there is something to match and every item equals the config's; a list is any of.
    """
    if _named(entry_checkpoints, name or config.get("_name_or_path")):
        return True
    return bool(entry_match) and all(
        key in config and config[key] in (value if isinstance(value, list) else [value])
        for key, value in entry_match.items()
    )


def choose(entries: Sequence[E], config: Mapping[str, Any], name: str | None = None) -> list[E]:
    """The entries of a checkpoint: those that name it, else those whose config matches.

    The name comes first because checkpoints may share one config: FLUX.1-Kontext-dev cannot be
    told from FLUX.1-dev by its config.
    """
    known = name or config.get("_name_or_path")
    named = [entry for entry in entries if _named(entry.checkpoints, known)]
    return named or [entry for entry in entries if matches(entry.match, [], config, None)]


def _named(checkpoints: Sequence[str], name: str | None) -> bool:
    # A pipeline loads its denoiser from a folder inside the hub cache, so the name arrives as
    # `…/models--owner--repository/snapshots/<hash>/transformer` more often than as a repository.
    if not name:
        return False
    parts = {part.rpartition("--")[2].lower() for part in re.split(r"[/\\]", name)}
    return any(checkpoint.rpartition("/")[2].lower() in parts for checkpoint in checkpoints)
