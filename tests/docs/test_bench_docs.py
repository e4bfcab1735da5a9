"""Tables and pictures in README and docs are those of the committed results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bench_docs
import pytest

from scripts import ROOT


def test_everything_says_what_was_measured() -> None:
    """What `make bench-docs` would write is there already, text and pictures."""
    assert bench_docs.stale() == []


def test_make_has_the_command() -> None:
    """As the pages name it."""
    makefile = (ROOT / "Makefile").read_text()
    assert "\nbench-docs:" in makefile
    assert "tools/bench_docs.py" in makefile


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A page and a picture that say something else."""
    page, picture = tmp_path / "page.md", tmp_path / "picture.svg"
    page.write_text("old")
    picture.write_text("<svg/>" + bench_docs.stamp("old"))
    monkeypatch.setattr(bench_docs, "ROOT", tmp_path)
    monkeypatch.setattr(bench_docs, "texts", lambda: {page: "new"})
    drawn = {picture: ("new", lambda path: path.write_text("<svg>new</svg>\n"))}
    monkeypatch.setattr(bench_docs, "pictures", lambda: drawn)
    return page, picture


def test_what_is_out_of_date_is_named_and_written(changed, monkeypatch, capsys) -> None:
    """The check writes nothing and fails; without it both are written, once."""
    page, picture = changed
    monkeypatch.setattr(sys, "argv", ["bench_docs.py", "--check"])
    assert bench_docs.main() == 1
    assert capsys.readouterr().out == "page.md is out of date\npicture.svg is out of date\n"
    assert page.read_text() == "old"
    assert bench_docs.write() == [page, picture]
    assert page.read_text() == "new"
    assert picture.read_text() == "<svg>new</svg>\n" + bench_docs.stamp("new")
    assert bench_docs.main() == 0


def test_it_runs_from_a_shell() -> None:
    """Where its pages are found beside it."""
    command = [sys.executable, ROOT / "tools" / "bench_docs.py", "--check"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
