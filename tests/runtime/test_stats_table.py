"""The lines of printed stats that are read first."""

from __future__ import annotations

import re

import pytest
from pipelines.tiny_pipelines import make, run

import autocache

INSIDE = ": what is skipped is inside of them"


@pytest.mark.parametrize(
    ("strategy", "parameters", "inside"),
    [("fora", {"interval": 2}, True), ("auto", {"speedup": 2}, False)],
)
def test_steps_come_first_and_calls_do_not_contradict_them(strategy, parameters, inside):
    """Where only what is inside is skipped, the denoiser is called in every step: its line says
    so."""
    pipe = make("flux")
    with autocache.patched(pipe, strategy, **parameters) as patch:
        run(pipe, steps=8)
        stats = patch.stats()
    table = dict(re.split(r"  +", line, maxsplit=1) for line in str(stats).splitlines())
    counted = sum(branch.computed for branch in stats.branches)
    assert 0 < counted < 8
    action = "reused" if inside else "predicted"
    expected = f"{counted} of 8 ({counted / 8:.1%}), {8 - counted} {action}"
    assert table["steps computed"] == expected
    assert table["denoiser calls run"] == str(stats.denoiser) + (INSIDE if inside else "")
    assert stats.denoiser.run == (8 if inside else counted)
    names = list(table)
    assert names.index("steps computed") < names.index("denoiser calls run")


def test_of_nothing_skipped_there_is_nothing_to_explain():
    pipe = make("flux")
    with autocache.patched(pipe, "fbcache", threshold=0.0) as patch:
        run(pipe, steps=4)
        table = str(patch.stats())
    assert re.search(r"steps computed +4 of 4 \(100\.0%\)\n", table)
    assert INSIDE not in table


def test_a_dry_run_computed_every_step_and_says_so_elsewhere():
    pipe = make("flux")
    with autocache.patched(pipe, "fora", interval=2, dry_run=True) as patch:
        run(pipe, steps=4)
        table = str(patch.stats())
    assert "steps computed" not in table
    assert "denoiser calls run" in table
