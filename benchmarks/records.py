"""The results of a benchmark in JSON files, one for each case, which several runs may write to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


class Records:
    """Rows by name of each case, `folder/<case>.json` under `results`, with what made them.

    Args:
        folder: below `benchmarks/results`.
        about: written at the head of each file (command, machine, versions).
    """

    def __init__(self, folder: str, about: Mapping[str, Any]) -> None:
        self.folder, self.about = RESULTS / folder, about

    def file(self, case: str) -> Path:
        """The file of a case, "shapes/plain"."""
        return self.folder / f"{case.replace('/', '_')}.json"

    def rows(self, case: str) -> dict[str, Any]:
        """What there is of a case."""
        file = self.file(case)
        return json.loads(file.read_text())["rows"] if file.is_file() else {}

    def add(self, case: str, name: str, row: Mapping[str, Any]) -> None:
        """Write a row, next to what others wrote meanwhile."""
        file = self.file(case)
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.parent):
            rows = self.rows(case) | {name: row}
            text = json.dumps({**self.about, "rows": rows}, indent=1, default=str)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_text(text + "\n")
            unfinished.replace(file)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, for as long as it lives at most."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
