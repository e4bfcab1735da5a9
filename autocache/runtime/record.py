"""What was done at each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Action = Literal["computed", "reused", "predicted"]


@dataclass(slots=True)
class StepRecord:
    """One denoiser call, as it went.

    In a dry run `action` and `sites` say what would have been done, `error` is the relative L1
    distance between what would have stood in and what was computed, and all blocks were run.
    `seconds` is host time; on an accelerator that runs asynchronously it is not the device's.
    """

    denoiser: str
    generation: int
    branch: str
    step: int
    blocks_total: int
    attention_total: int
    action: Action = "computed"
    distance: float | None = None
    blocks_skipped: int = 0
    attention_skipped: int = 0
    seconds: float = 0.0
    bytes: int = 0
    error: float | None = None
    sites: dict[str, Action] = field(default_factory=dict)
    whole: bool = False
    """The denoiser itself was not run."""
    not_finite: bool = False
    """What was measured in it was NaN or Inf."""

    def skip_all(self) -> None:
        """Note that nothing of the denoiser was run."""
        self.whole = True
        self.blocks_skipped, self.attention_skipped = self.blocks_total, self.attention_total
