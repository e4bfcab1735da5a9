"""All tables and pictures that come from benchmarks/results: `make bench-docs`.

`python tools/bench_docs.py` writes them into README and docs; with `--check` it writes nothing,
names what is out of date and exits with 1. Pictures carry a digest of what they show, and are drawn
again (which takes matplotlib) when that has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "readme",
    "choosing_page",
    "quality_page",
    "defaults_page",
    "memory_page",
    "overhead_page",
    "scale_page",
    "gpu_page",
)
"""Modules with `PAGE` and `page()`, where the page is and what it should say, or with `files()`,
the same by path; and perhaps `draw()`, by path what a picture shows and how it is drawn."""


def texts() -> dict[Path, str]:
    """What every file should say."""
    found: dict[Path, str] = {}
    for name in PAGES:
        module = importlib.import_module(name)
        found |= module.files() if hasattr(module, "files") else {module.PAGE: module.page()}
    return found


def pictures() -> dict[Path, tuple[Any, Any]]:
    """What every picture shows, and how it is drawn."""
    found: dict[Path, tuple[Any, Any]] = {}
    for name in PAGES:
        found |= getattr(importlib.import_module(name), "draw", dict)()
    return found


def stamp(shows: object) -> str:
    """The last line of a picture."""
    return f"<!-- shows {hashlib.sha256(repr(shows).encode()).hexdigest()[:16]} -->\n"


def stale() -> list[Path]:
    """The files that do not say what was measured."""
    written = [(path, text) for path, text in texts().items() if _read(path) != text]
    drawn = [
        path for path, (shows, _) in pictures().items() if not _read(path).endswith(stamp(shows))
    ]
    return [path for path, _ in written] + drawn


def write() -> list[Path]:
    """Bring everything up to date."""
    old = stale()
    for path, text in texts().items():
        if path in old:
            path.write_text(text)
    for path, (shows, draw) in pictures().items():
        if path in old:
            draw(path)
            path.write_text(_read(path) + stamp(shows))
    return old


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    changed = stale() if check else write()
    for path in changed:
        print(path.relative_to(ROOT), "is out of date" if check else "written")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
