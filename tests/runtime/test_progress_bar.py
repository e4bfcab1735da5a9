"""The pipeline's own bar goes on, and says what share was computed."""

from __future__ import annotations

import io
from typing import Any

from pipelines.tiny_pipelines import make, run

import autocache


def test_the_bar_shows_the_share_until_the_patch_is_off(nothing_patched):
    pipe = make("flux")
    plain = type(pipe).progress_bar
    shown: list[io.StringIO] = []

    def draw() -> str:
        shown.append(io.StringIO())
        pipe.set_progress_bar_config(file=shown[-1], disable=False, mininterval=0)
        run(pipe, steps=8)
        return shown[-1].getvalue()

    with autocache.patched(pipe, "fora", interval=2) as patch:
        told = draw()
        steps: Any = patch.stats().steps
        share = sum(step.action == "computed" for step in steps) / len(steps)
        assert 0 < share < 1
        assert f"computed {share:.0%}" in told
        assert "8/8" in told
        pipe.set_progress_bar_config(file=io.StringIO(), disable=True)
        run(pipe, steps=4)
    assert "computed" not in draw()
    assert type(pipe).progress_bar == plain


def test_in_a_dry_run_all_is_computed():
    """Whatever would have been skipped."""
    pipe, shown = make("flux"), io.StringIO()
    pipe.set_progress_bar_config(file=shown, disable=False, mininterval=0)
    with autocache.patched(pipe, "fora", interval=2, dry_run=True) as patch:
        run(pipe, steps=8)
        assert any(step.action != "computed" for step in patch.stats().steps)
    assert "computed 100%" in shown.getvalue()
