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
    feed_forward_total: int = 0
    action: Action = "computed"
    distance: float | None = None
    threshold: float | None = None
    """What `distance` was compared with: below it the step may be skipped."""
    forced: str | None = None
    """Why it was computed whatever the rule: "nothing kept" that could stand in, "limits" on which
    steps may be skipped at all, or "skips used up" of those allowed."""
    blocks_skipped: int = 0
    attention_skipped: int = 0
    feed_forward_skipped: int = 0
    seconds: float = 0.0
    bytes: int = 0
    error: float | None = None
    sites: dict[str, Action] = field(default_factory=dict)
    whole: bool = False
    """The denoiser itself was not run."""
    not_finite: bool = False
    """What was measured in it was NaN or Inf."""

    @property
    def skips(self) -> bool:
        """Whether anything was filled in, or in a dry run would have been."""
        skipped = self.blocks_skipped or self.attention_skipped or self.feed_forward_skipped
        return bool(skipped) or any(done != "computed" for done in self.sites.values())

    def skip_all(self) -> None:
        """Note that nothing of the denoiser was run."""
        self.whole = True
        self.blocks_skipped, self.attention_skipped = self.blocks_total, self.attention_total
        self.feed_forward_skipped = self.feed_forward_total
