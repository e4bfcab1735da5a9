"""What a patched pipeline did: computed, skipped, and what it held in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autocache import memory_use, stats_rows, stats_warnings, time_use
from autocache.branch_stats import BranchStats, Calls
from autocache.time_use import TimeUse

if TYPE_CHECKING:
    from autocache.memory_use import MemoryUse
    from autocache.runtime.record import StepRecord
    from autocache.runtime.session import Session


@dataclass(frozen=True)
class RunStats:
    """Totals since the patch or the last `Patch.reset()`, and the record of the latest calls.

    `seconds` is host time in the denoiser; `bytes_held` and `bytes_peak` are cached tensors on the
    devices that compute, and `memory` says where they are. After a dry run all calls were run, and
    the steps say what would have been skipped, at what error.
    """

    strategy: str
    parameters: dict[str, Any]
    profile: str | None
    """The file of the profile it was made from."""
    model: str
    spec_file: str | None
    generations: int
    passes: int
    denoiser: Calls
    blocks: Calls
    attention: Calls
    seconds: float
    bytes_held: int
    bytes_peak: int
    steps: tuple[StepRecord, ...]
    memory: MemoryUse
    not_finite: int = 0
    """Denoiser calls in which what was measured was NaN or Inf, so that they were computed."""
    feed_forward: Calls = field(default_factory=lambda: Calls(0, 0))
    """Of none where the spec names no feed-forward modules."""
    branches: tuple[BranchStats, ...] = ()
    """Per generation, denoiser and guidance branch, the latest ones."""
    seconds_saved: float | None = None
    """The sum over all branches; None where it is known of none of them."""
    times: TimeUse = field(default_factory=TimeUse)
    """Where the time of the pipeline's calls went."""
    dry_run: bool = False
    """Everything was computed; branches and steps say what would have been skipped."""
    warnings: tuple[str, ...] = ()
    """What a user should know: nothing skipped, a limit hit, another library in the way."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        calls = {
            "denoiser_calls": self.denoiser,
            "block_calls": self.blocks,
            "attention_calls": self.attention,
            "feed_forward_calls": self.feed_forward,
        }
        seconds = {"denoiser": self.seconds, "saved": self.seconds_saved}
        return {
            "strategy": self.strategy,
            "parameters": self.parameters,
            "profile": self.profile,
            "model": self.model,
            "spec_file": self.spec_file,
            "dry_run": self.dry_run,
            "generations": self.generations,
            "passes": self.passes,
            "not_finite": self.not_finite,
            **{name: made.to_dict() for name, made in calls.items()},
            "seconds": {**seconds, "pipeline": self.times.to_dict()},
            "bytes": self.memory.to_dict(),
            "warnings": list(self.warnings),
            "branches": [branch.to_dict() for branch in self.branches],
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }

    def __str__(self) -> str:
        rows = [
            ("strategy", self.strategy),
            *([("profile", self.profile)] if self.profile else []),
            ("model", self.model),
            ("spec", self.spec_file or "given in memory"),
            ("generations", f"{self.generations}, {self.passes} denoiser calls"),
            *stats_rows.of_steps(self),
            ("block calls run", str(self.blocks)),
            ("attention calls run", str(self.attention)),
            ("feed-forward calls run", str(self.feed_forward)),
            *stats_rows.of_dry_run(self),
            *stats_rows.of_time(self),
            *stats_rows.of_distance(self),
            *self.memory.rows().items(),
            *stats_rows.of_generation(self),
            *(("warning", said) for said in self.warnings),
        ]
        # A spec may name none of them.
        rows = [row for row in rows if row[1] != str(Calls(0, 0))]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def collect(sessions: Sequence[Session]) -> RunStats:
    """The stats of one pipeline's denoisers together."""
    patch = sessions[0].patch
    memory = memory_use.collect(list({id(s.ledger): s.ledger for s in sessions}.values()))
    files = [str(s.spec.file) if s.spec.file else None for s in sessions]
    totals = [s.totals for s in sessions]
    sums = [t.sums for t in totals]
    passes = sum(t.passes for t in sums)
    pairs = list(zip(sums, sessions, strict=True))
    blocks = sum(t.passes * s.block_count for t, s in pairs)
    attention = sum(t.passes * s.attention_count for t, s in pairs)
    feed_forward = sum(t.passes * s.feed_forward_count for t, s in pairs)
    saved = [t.saved for t in totals if t.saved is not None]
    return RunStats(
        strategy=patch.strategy.name,
        parameters=patch.strategy.parameters(),
        profile=patch.profile,
        model=", ".join(dict.fromkeys(s.label for s in sessions)),
        spec_file=", ".join(dict.fromkeys(file for file in files if file)) or None,
        generations=max(t.generations for t in totals),
        passes=passes,
        denoiser=Calls(passes - sum(t.passes_skipped for t in sums), passes),
        blocks=Calls(blocks - sum(t.blocks_skipped for t in sums), blocks),
        attention=Calls(attention - sum(t.attention_skipped for t in sums), attention),
        seconds=sum(t.seconds for t in sums),
        feed_forward=Calls(feed_forward - sum(t.feed_forward_skipped for t in sums), feed_forward),
        seconds_saved=sum(saved) if saved else None,
        times=time_use.of(totals),
        dry_run=any(s.dry_run for s in sessions),
        branches=tuple(tally.stats() for t in totals for tally in t.tallies),
        warnings=stats_warnings.collect(sessions),
        bytes_held=memory.held,
        bytes_peak=memory.peak,
        memory=memory,
        not_finite=sum(t.not_finite for t in sums),
        steps=tuple(record for t in totals for record in t.records),
    )
