"""README's two commands exist; its figures are looked at by docs/test_bench_docs.py."""

from __future__ import annotations

from scripts import ROOT


def test_the_two_commands_are_make_targets():
    """`make demo` and `make test`, as README names them, are in the Makefile."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}:" in makefile
