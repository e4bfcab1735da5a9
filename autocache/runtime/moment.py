"""One denoiser call of one guidance branch: all that the three axes get to see of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autocache.runtime.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from autocache.runtime.record import StepRecord
    from autocache.runtime.store import Store


@dataclass(frozen=True, slots=True)
class Decision:
    """Compute or skip at this moment; `keep` says whether what is computed is to be remembered."""

    compute: bool
    keep: bool = False
    distance: float | None = None
    """What the decision was taken on, in the units of the strategy's threshold. On what is not
    finite none is taken: the step is computed, and nothing kept stands in for the next."""
    threshold: float | None = None
    """What the distance was compared with."""


@dataclass(slots=True)
class State:
    """What one part of a strategy remembers: in one guidance branch, or for all of them together.

    It is dropped when the generation ends. `kept` tells what each site has in the store, by the
    site's name; empty means that nothing could stand in yet. `memory` is the rules' own.
    """

    store: Store
    kept: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    def clear(self) -> None:
        """Let go of everything kept, so that the next step cannot skip."""
        self.store.clear()
        self.kept.clear()


def _unknown(step: int) -> float:
    raise LookupError(f"the timestep of step {step} is not known")


def _no_progress() -> tuple[float, ...] | None:
    return None


def _no_gain(step: int) -> float | None:
    return None


@dataclass(slots=True)
class Call:
    """What all parts of a strategy see of a denoiser call.

    `step` counts from 0 within the generation, `total` is None where nobody announced it. `branch`
    is the name of the guidance branch, or its place in the step. `latent` is the denoiser's input,
    None where it takes a list of them; `latents` are all there are.
    `sample` is what the scheduler's last step returned, None where no scheduler is heard.
    `time_of` gives the timestep of a step of this generation, on the scheduler's scale.
    """

    step: int
    total: int | None
    branch: str
    record: StepRecord
    dry_run: bool = False
    latent: torch.Tensor | None = None
    latents: tuple[torch.Tensor, ...] = ()
    sample: torch.Tensor | None = None
    time_of: Callable[[int], float] = _unknown
    sigma: float | torch.Tensor | None = None
    """The noise level in [0, 1], where the pipeline announces it."""
    gain: Callable[[int], float | None] = _no_gain
    """What a change of the output in an earlier step is worth as a change in this one; None where
    the scheduler's steps are not known to answer linearly, each to its own output."""
    progress: Callable[[], tuple[float, ...] | None] = _no_progress
    """The share of the way from noise to picture that lies behind at each step of the generation;
    None where the scheduler does not tell."""
    frames: int | None = None
    """The latent frames, where they are packed into tokens and the denoiser is told."""
    conditional_only: bool = False
    """Nothing unconditional is run in this step."""
    conditional_half: int | None = None
    """Which half of the batch is conditional, where the other one is run too and is not."""
    unconditional: bool = False
    """The call is the unconditional one of a step with a call for each."""
    unlike: str | None = None
    """In what the generation is unlike those that the strategy's profile was made for, so that what
    was fitted for them does not hold; None where nothing of that kind is known."""
    ranks: Ranks = ALONE
    """The processes that work on it, through which a rule reads numbers off its tensors."""

    @property
    def is_last(self) -> bool:
        """Whether this is known to be the generation's last step."""
        return self.total is not None and self.step >= self.total - 1


@dataclass(slots=True)
class Moment:
    """One denoiser call as one part of a strategy sees it; it lives as long as the call."""

    call: Call
    state: State
    shared: State
    """What the part remembers for all guidance branches together."""
    forced: bool = False
    """The strategy's limits have this step computed; a rule must treat it as computed."""
    probe: torch.Tensor | None = None
    decision: Decision | None = None
    output: Any = None
    """What the denoiser returned in this call, where all of it was run and is acted on."""
    flights: dict[Any, Any] = field(default_factory=dict)
    """Per span of blocks, the streams recorded at its entry."""

    @property
    def step(self) -> int:
        return self.call.step

    @property
    def total(self) -> int | None:
        return self.call.total

    @property
    def record(self) -> StepRecord:
        return self.call.record

    @property
    def store(self) -> Store:
        return self.state.store

    @property
    def kept(self) -> dict[str, Any]:
        return self.state.kept

    @property
    def memory(self) -> dict[str, Any]:
        return self.state.memory

    def distrust(self) -> None:
        """What was measured is not finite: what is kept may be no better, and is let go of."""
        self.record.not_finite = True
        self.state.clear()

    def note_errors(self, errors: Iterable[float]) -> None:
        """Record how far what would have stood in is from what was computed."""
        for error in errors:
            if math.isfinite(error):
                self.record.error = max(self.record.error or 0.0, error)
            else:
                self.record.not_finite = True
