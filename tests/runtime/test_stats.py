"""What stats say, against what was counted and timed beside them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run

import autocache
from autocache.reporting import answer
from autocache.runtime.record import StepRecord
from autocache.runtime.tally import Tally


def _counting(pipe: Any, stop: list[Any]) -> Counter[str]:
    """Forward hooks that count the calls of the feed-forward modules that run."""
    counts: Counter[str] = Counter()
    for name, module in pipe.transformer.named_modules():
        if name.split(".")[-1] in ("ff", "ff_context", "proj_mlp"):
            stop.append(module.register_forward_hook(lambda *_, n=name: counts.update([n])))
    return counts


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [("fbcache", {"threshold": 0.5}), ("taylorseer", {}), ("easycache", {"threshold": 10.0})],
)
def test_feed_forward_calls_are_those_that_hooks_see(strategy, parameters):
    """Whether blocks, sub-modules or whole calls are skipped."""
    pipe = make("flux")
    handles: list[Any] = []
    with autocache.patched(pipe, strategy, **parameters) as patch:
        named = patch._sessions[0].feed_forward_count
        counts = _counting(pipe, handles)
        run(pipe, steps=10)
        stats = patch.stats()
    for handle in handles:
        handle.remove()
    assert stats.feed_forward.total == named * stats.passes
    assert stats.feed_forward.share < 1
    assert named >= len(counts) > 0
    if named == len(counts):
        assert stats.feed_forward.run == counts.total()


def test_branches_add_up_and_time_is_the_call_s():
    """Per generation and branch, and the whole call as a clock beside it sees it."""
    pipe = make("flux")
    with autocache.patched(pipe, "fora", interval=2) as patch:
        run(pipe, steps=2)
        patch.reset()
        began = time.perf_counter()
        run(pipe, steps=8)
        run(pipe, steps=8)
        around = time.perf_counter() - began
        stats = patch.stats()
    assert len({branch.generation for branch in stats.branches}) == 2
    assert sum(b.computed + b.reused + b.predicted for b in stats.branches) == stats.passes
    assert sum(b.attention.run for b in stats.branches) == stats.attention.run
    assert sum(b.seconds for b in stats.branches) == pytest.approx(stats.seconds)
    times = stats.times
    parts = (times.denoiser, times.before, times.between, times.after)
    assert sum(part or 0 for part in parts) == pytest.approx(times.call)
    assert times.denoiser == pytest.approx(stats.seconds)
    assert stats.seconds < (times.call or 0) <= around
    told = json.loads(json.dumps(stats.to_dict(), default=str))
    assert told["seconds"]["pipeline"]["call"] == times.call
    assert [row["computed"] for row in told["branches"]] == [b.computed for b in stats.branches]
    assert "of the pipeline's" in str(stats)


def _record(seconds: float, skipped: int = 0) -> StepRecord:
    made = StepRecord("toy", 0, "0", 0, 2, 0, seconds=seconds)
    made.blocks_skipped = skipped
    return made


def test_saved_time_is_measured_and_not_assumed():
    """Of the median computed call without the first; unknown without one; none in a dry run."""
    tally, blind, dry = (Tally("toy", 0, "0") for _ in range(3))
    for seconds in (9.0, 2.0, 2.0, 2.5):
        tally.add(_record(seconds), dry_run=False)
    for made in (_record(0.5, 2), _record(0.25, 2)):
        tally.add(made, dry_run=False)
        blind.add(made, dry_run=False)
        dry.add(made, dry_run=True)
    assert tally.saved == pytest.approx(2 * 2.0 - 0.75)
    assert blind.saved is None
    assert dry.saved == 0.0


def test_threshold_is_what_the_distance_was_compared_with():
    pipe = make("flux")
    with autocache.patched(pipe, "fbcache", threshold=0.3) as patch:
        run(pipe, steps=10)
        steps = patch.stats().steps
    measured = [s for s in steps if s.distance is not None]
    assert measured
    assert {s.threshold for s in measured} == {0.3}
    free = [s for s in measured if s.forced is None]
    assert all((s.action == "reused") == ((s.distance or 0.0) < 0.3) for s in free)


def _warnings(patch: Any) -> str:
    return "\n".join(patch.stats().warnings)


def test_warnings_name_what_is_amiss():
    """Nothing skipped and why; a limit; nothing where all is well."""
    pipe = make("flux")
    with autocache.patched(pipe, "easycache", warmup_steps=8) as patch:
        run(pipe, steps=8)
        assert "nothing was skipped: the limits" in _warnings(patch)
        assert "warning " in str(patch.stats())
    with autocache.patched(pipe, "fbcache", threshold=1e-9) as patch:
        run(pipe, steps=8)
        assert "the distance never came below the threshold" in _warnings(patch)
    with autocache.patched(pipe, "fbcache", threshold=9.0, max_consecutive_skips=1) as patch:
        run(pipe, steps=10)
        assert "max_consecutive_skips" in _warnings(patch)
    with autocache.patched(pipe, "fora") as patch:
        run(pipe, steps=10)
        assert not patch.stats().warnings


def test_a_memory_limit_that_was_hit_is_a_warning():
    """While places found no room; none where there is room for all."""
    pipe = make("flux")
    for limit, told in (("4KiB", True), ("1GiB", False)):
        with autocache.patched(pipe, "fora", interval=2, memory_limit=limit) as patch:
            run(pipe, steps=8)
            stats = patch.stats()
        assert stats.bytes_peak <= (stats.memory.limit or 0)
        said = re.search(r"memory_limit=4 KiB: .* (\d+) of \d+ places", "".join(stats.warnings))
        assert bool(said) == told, stats.warnings


def _around(**given: Any) -> tuple[torch.Tensor]:
    """A forward that runs no block."""
    return (torch.zeros_like(given["hidden_states"]),)


def test_a_denoiser_that_runs_none_of_its_places_is_a_warning(monkeypatch):
    """As when a forward put over the model's own goes around its blocks."""
    pipe = make("flux")
    with autocache.patched(pipe, "fbcache", threshold=9.0) as patch:
        run(pipe, steps=6)
        assert not patch.stats().warnings
        patch.reset()
        with monkeypatch.context() as undo:
            undo.setattr(pipe.transformer, "forward", _around)
            run(pipe, steps=6)
            stats = patch.stats()
        assert stats.passes == 6
        said = re.search(r"(\d+) calls came past none of the places", "".join(stats.warnings))
        assert said
        assert 0 < int(said[1]) <= 6


def test_what_kept_nothing_is_not_blamed_on_limits_alone(monkeypatch):
    """A fixed schedule whose places never come has nothing to skip with."""
    pipe = make("flux")
    with autocache.patched(pipe, "dit_block", step_interval=2, step_start=1) as patch:
        with monkeypatch.context() as undo:
            undo.setattr(pipe.transformer, "forward", _around)
            run(pipe, steps=6)
        said = "".join(patch.stats().warnings)
    assert "nothing was skipped: " in said
    assert "or its places kept nothing that could stand in" in said


@pytest.mark.parametrize(("threshold", "skips"), [(0.5, True), (1e-9, False)])
def test_a_dry_run_says_that_it_was_one(threshold, skips):
    """With what would have been skipped, and at what error; and in JSON and the answer as well."""
    pipe = make("flux")
    with autocache.patched(pipe, "fbcache", threshold=threshold, dry_run=True) as patch:
        run(pipe, steps=10)
        stats = patch.stats()
    would = [step for step in stats.steps if step.skips]
    assert stats.dry_run
    assert bool(would) == skips
    assert stats.blocks.share == 1.0
    table = str(stats)
    assert f"everything was computed; {len(would)} of {len(stats.steps)} denoiser calls" in table
    assert ("error if skipped" in table) == skips
    assert "nothing was skipped" not in table
    assert ("nothing would have been skipped" in table) != skips
    assert "saved by a dry run" in table
    told = json.loads(json.dumps(stats.to_dict(), default=str))
    assert told["dry_run"] is True
    assert answer.answer(told) == [
        f"This was a dry run: everything was computed. Something would have been skipped in "
        f"{len(would)} of {len(stats.steps)} denoiser calls."
    ]
    with autocache.patched(pipe, "fbcache", threshold=threshold) as patch:
        run(pipe, steps=10)
        assert not patch.stats().dry_run
        assert "dry run" not in str(patch.stats())


def test_a_patch_that_another_library_displaced_says_so(monkeypatch):
    """A forward put over ours, on the instance or on the class; offloading does not count."""
    pipe = make("flux")
    model = pipe.transformer
    with autocache.patched(pipe, "fora") as patch:
        run(pipe, steps=6)
        assert not patch.stats().warnings
        with monkeypatch.context() as undo:
            undo.setattr(model, "forward", model.forward, raising=False)
            assert "forward was replaced by" in _warnings(patch)
        vars(model).pop("forward", None)
        forward = type(model).forward
        with monkeypatch.context() as undo:
            undo.setattr(type(model), "forward", lambda *a, **k: forward(*a, **k))
            assert "forward of its class was replaced" in _warnings(patch)
        assert not patch.stats().warnings
