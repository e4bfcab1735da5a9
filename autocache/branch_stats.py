"""What was done in one guidance branch of one generation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Calls:
    """Module calls that were run, of those an unpatched model would have run."""

    run: int
    total: int

    @property
    def share(self) -> float:
        """Share run, 1.0 when there was nothing to run."""
        return self.run / self.total if self.total else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"run": self.run, "total": self.total, "share": self.share}

    def __str__(self) -> str:
        return f"{self.run} of {self.total} ({self.share:.1%})"


@dataclass(frozen=True)
class BranchStats:
    """One guidance branch of one denoiser in one generation.

    `computed`, `reused` and `predicted` count its steps; one in which anything was filled in is not
    a computed one. `seconds` is host time in the denoiser. `seconds_saved` is what the steps in
    which something was skipped would have taken, had they taken what a step took here in which
    nothing was (the median, without the first step where there is another), less what they took;
    None where there was no such step.
    """

    generation: int
    denoiser: str
    branch: str
    computed: int
    reused: int
    predicted: int
    blocks: Calls
    attention: Calls
    feed_forward: Calls
    seconds: float
    seconds_saved: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        calls = ("blocks", "attention", "feed_forward")
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            **{name: getattr(self, name).to_dict() for name in calls},
        }
