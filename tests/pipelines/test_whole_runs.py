"""Whole generations of six real pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import BUILDERS, counted, make, run

import autocache
import tiny

STRATEGIES = ("teacache", "dit_block", "attention")
NEVER: list[tuple[str, dict[str, Any]]] = [
    ("teacache", {"threshold": 0}),
    ("dit_block", {"step_interval": 1}),
    ("attention", {"step_interval": 1}),
    *((name, {"enabled": False}) for name in STRATEGIES),
    *((name, {"dry_run": True}) for name in STRATEGIES),
]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", BUILDERS)
def test_defaults_skip_and_the_stats_are_true(name: str, strategy: str, guided: bool) -> None:
    """With its defaults every strategy skips something, and reports what really ran."""
    pipe = make(name)
    plain = run(pipe, guided=guided)
    patch = autocache.patch(pipe, tiny.choice(strategy))
    with counted(pipe) as counts:
        cached = run(pipe, guided=guided)
    stats = patch.stats()
    assert stats.blocks.run == counts["block"].total()
    skipped = stats.attention.total - stats.attention.run
    per_pass = stats.blocks.total // stats.passes
    if strategy == "attention":
        assert stats.blocks.run == stats.blocks.total
        assert 0 < counts["attention"].total() < stats.blocks.total
        assert skipped == stats.blocks.total - counts["attention"].total()
    else:
        assert stats.blocks.total * 0.3 < stats.blocks.run < stats.blocks.total
        kinds = 2 if name == "wan" else 1
        assert skipped == kinds * (stats.blocks.total - stats.blocks.run)
    assert stats.passes * per_pass == stats.blocks.total
    assert stats.generations == 1
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, plain)
    assert stats.bytes_held == 0 < stats.bytes_peak


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("strategy", "options"), NEVER, ids=str)
@pytest.mark.parametrize("name", BUILDERS)
def test_never_skipping_changes_no_bit(
    name: str, strategy: str, options: dict[str, Any], guided: bool
) -> None:
    """A patch that may not skip leaves every bit of the output, and runs every block."""
    pipe = make(name)
    plain = run(pipe, guided=guided)
    with autocache.patch(pipe, tiny.choice(strategy), **options) as patch, counted(pipe) as counts:
        cached = run(pipe, guided=guided)
        stats = patch.stats()
    assert torch.equal(cached, plain)
    blocks = 6 if name in ("flux", "hunyuan") else 3
    calls = 16 if guided and name not in ("cogvideox", "dit") else 8
    assert counts["block"].total() == counts["attention"].total() == blocks * calls
    assert stats.blocks.run == stats.blocks.total
    assert stats.attention.run == stats.attention.total
    assert stats.passes == (0 if options.get("enabled") is False else calls)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_dry_run_says_what_a_real_one_would_begin_with(name: str, strategy: str) -> None:
    """A dry run records skips with the error each would have made."""
    pipe = make(name)
    with autocache.patch(pipe, tiny.choice(strategy), dry_run=True) as patch:
        run(pipe)
        steps = patch.stats().steps
    reused = [step for step in steps if step.action == "reused"]
    assert reused
    assert all(step.error is not None and step.error > 0 for step in reused)
    assert all(step.error is None for step in steps if step.action == "computed")


@pytest.mark.parametrize("name", BUILDERS)
def test_unpatching_restores_every_bit(name: str) -> None:
    """After unpatch the pipeline generates what it did before."""
    pipe = make(name)
    plain = run(pipe, guided=True)
    autocache.patch(pipe, "dit_block")
    assert not torch.equal(run(pipe, guided=True), plain)
    autocache.unpatch(pipe)
    assert not autocache.is_patched(pipe)
    assert torch.equal(run(pipe, guided=True), plain)


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_block_range_over_stacks_is_what_is_skipped(name: str) -> None:
    """block_start and block_end count over all stacks, and only that range is skipped."""
    pipe = make(name)
    start, end = (1, 5) if name == "flux" else (1, 2)
    fixed = {"step_start": 0, "step_interval": 2, "block_start": start, "block_end": end}
    with autocache.patch(pipe, "dit_block", **fixed) as patch, counted(pipe) as counts:
        run(pipe, steps=8)
        stats = patch.stats()
    # Every second step skips; an expert's own steps 0..3 and 4..7 begin with a computed one.
    skipping = 4
    assert stats.blocks.total - stats.blocks.run == skipping * (end - start)
    assert stats.blocks.run == counts["block"].total()
