"""The page of all models is what their specs say."""

from __future__ import annotations

from autocache.spec import registry
from scripts import ROOT, tool


def test_the_page_is_current() -> None:
    """docs/models.md is what tools/models_page.py writes, with a row for every spec."""
    page = tool("models_page").page()
    assert (ROOT / "docs" / "models.md").read_text() == page
    for info in registry.specs():
        assert f"| `{info.name}` |" in page
