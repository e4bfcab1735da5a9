"""One denoiser call of one guidance branch: all that the three axes get to see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """What the decision was taken on, in the units of the strategy's threshold."""


@dataclass(slots=True)
class Moment:
    """One denoiser call. Lives from its beginning to its end.

    `step` counts from 0 within the generation, `total` is None where nobody announced it. `store`,
    `kept` and `memory` belong to the guidance branch and outlive the moment, until the generation
    ends.
    """

    step: int
    total: int | None
    branch: str
    store: Store
    kept: dict[str, Any]
    """What each site has in the store, by the site's name. Empty: nothing could stand in yet."""
    memory: dict[str, Any]
    """What the rule of `when` remembers."""
    record: StepRecord
    dry_run: bool = False
    probe: torch.Tensor | None = None
    decision: Decision | None = None
    flights: dict[Any, Any] = field(default_factory=dict)
    """Per span of blocks, the streams recorded at its entry."""
