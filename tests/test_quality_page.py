"""docs/quality.md says what was measured."""

from __future__ import annotations

import json

import autocache
from scripts import ROOT, tool

PAGE = tool("quality_page")


def test_the_page_is_the_committed_measurement():
    """Word for word what the tool writes from the result."""
    assert (ROOT / "docs" / "quality.md").read_text() == PAGE.page()


def test_every_strategy_was_tried_on_every_pipeline():
    """A strategy that came since has to be measured too."""
    figures = json.loads(PAGE.RESULT.read_text())["figures"]
    names = {info.name for info in autocache.strategies()}
    assert {pipeline: set(rows) for pipeline, rows in figures.items()} == dict.fromkeys(
        ("shapes", "shapes_sd", "shapes_wan"), names
    )
