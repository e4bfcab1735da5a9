"""The strategies' pages are what their parameter models say."""

from __future__ import annotations

import pytest

import autocache
from autocache.strategy import get
from autocache.strategy.info import info
from scripts import ROOT, tool


def test_the_pages_are_current():
    """docs/strategies is what tools/strategy_pages.py writes, file by file."""
    folder = ROOT / "docs" / "strategies"
    assert {file.name: file.read_text() for file in folder.glob("*.md")} == tool(
        "strategy_pages"
    ).pages()


@pytest.mark.parametrize("name", [known.name for known in autocache.strategies()])
def test_a_recipe_says_all_that_its_page_needs(name):
    """Every strategy has its formula, memory, use and source, and describes each parameter."""
    told = info(get(name))
    assert told.summary.endswith(".")
    assert told.about
    assert all(parameter.description for parameter in told.parameters.values())


def test_a_docstring_that_leaves_something_out_is_an_error():
    """A recipe without its labelled paragraphs cannot become a page."""

    class Silent(get("teacache")):
        """Says nothing."""

    with pytest.raises(ValueError, match="Formula, Memory, Choose it, Source"):
        info(Silent)
