"""docs/memory.md names the ways that there are; its figures docs/test_bench_docs.py looks at."""

from __future__ import annotations

from pathlib import Path

from autocache.memory import LOSSLESS, WAYS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "memory.md").read_text()


def test_every_way_is_named() -> None:
    """And the default is the one there is."""
    assert all(f'| `"{way}"` |' in PAGE for way in WAYS)
    assert f'The default is `("{LOSSLESS[0]}", "{LOSSLESS[1]}")`' in PAGE.replace("\n", " ")
