"""docs/quality.md says what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import autocache

ROOT = Path(__file__).resolve().parents[1]


def tool():
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools" / "quality_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_committed_measurement():
    """Word for word what the tool writes from the result."""
    assert (ROOT / "docs" / "quality.md").read_text() == tool().page()


def test_every_strategy_was_tried_on_every_pipeline():
    """A strategy that came since has to be measured too."""
    figures = json.loads(tool().RESULT.read_text())["figures"]
    names = {info.name for info in autocache.strategies()}
    assert {pipeline: set(rows) for pipeline, rows in figures.items()} == dict.fromkeys(
        ("shapes", "shapes_sd", "shapes_wan"), names
    )
