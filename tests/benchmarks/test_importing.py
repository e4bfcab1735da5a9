"""What a patch imports, in counts that do not vary between machines; times are only reported."""

from __future__ import annotations

import importing
import pytest

OURS = [name for name in importing.METHODS if name.startswith("autocache")]


@pytest.mark.parametrize("name", OURS)
def test_a_patch_imports_what_it_needs(name: str) -> None:
    """Its own rules and not those of every method, and nothing of tuning, reports and the like."""
    ran = importing.run(name)
    own = [one for one in ran["modules"] if one.split(".")[0] == "autocache"]
    assert "autocache.planning" in own
    assert len(own) <= 100, own
    unasked = ("tuning", "comparison", "reporting", "authoring", "demo", "cli", "run_stats")
    assert not [one for one in own if one.split(".")[1:2] and one.split(".")[1] in unasked]
    assert ran["again"] > 0
    assert 0 < ran["before"] < ran["after"]
