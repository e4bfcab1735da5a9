"""docs/defaults.md covers every strategy; that it is up to date, test_bench_docs.py says."""

from __future__ import annotations

import json

import defaults_page

import autocache


def test_every_strategy_was_tried_on_every_pipeline():
    """A strategy that came since has to be measured too."""
    figures = json.loads(defaults_page.RESULT.read_text())["figures"]
    names = {info.name for info in autocache.strategies()}
    assert {pipeline: set(rows) for pipeline, rows in figures.items()} == dict.fromkeys(
        ("shapes", "shapes_sd", "shapes_wan"), names
    )
