"""README says what was measured, and its two commands exist."""

from __future__ import annotations

from scripts import ROOT, tool


def test_the_measured_part_is_generated_from_the_committed_results():
    """README's figures are those of the committed results, word for word."""
    readme = tool("readme")
    found = readme.MEASURED.search((ROOT / "README.md").read_text())
    assert found is not None
    assert found[0] == found[1] + readme.measured() + found[2]


def test_the_two_commands_are_make_targets():
    """`make demo` and `make test`, as README names them, are in the Makefile."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}:" in makefile
