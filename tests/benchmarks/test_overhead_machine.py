"""Machine instructions are those of the code in between, and each goes to its step."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import callgrind
import overhead_machine
from scripts import ROOT

PROGRAM = """
import callgrind

def work(times):
    for _ in range(times):
        sum(range(10_000))

work(1)
for times in (1, 2, 4):
    with callgrind.counting():
        work(times)
        callgrind.dump()
    work(3)
"""


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs between the beginning of a block and a dump in it, and nothing beside."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    out = tmp_path / "dump"
    callgrind.run([sys.executable, "-c", PROGRAM], out)
    once, twice, four = (callgrind.total(out, nth) for nth in (1, 2, 3))
    assert twice - once > 10_000
    assert four - twice == pytest.approx(2 * (twice - once), rel=0.05)
    assert callgrind.version()[0].isdigit()


@pytest.mark.skipif(
    platform.machine() not in callgrind.PROCESSORS, reason="the requests are code of x86-64"
)
def test_without_valgrind_requests_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs to its end, and writes nothing."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than given instructions that it does not know."""
    callgrind._memory.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(OSError, match="this is aarch64"):
        callgrind.dump()


def test_a_row_is_of_the_usual_steps() -> None:
    """Of each kind the median, as a ratio to the plain steps that ran just before."""
    plain = [9000, 9000, 9000, 990, 1000, 1010, 9000]
    own = [8000, 8000, 8000, 1020, 100, 1000, 8000]
    kinds = ["computed"] * 4 + ["skipped"] + ["computed"] * 2
    assert overhead_machine._row(plain, own, kinds) == {
        "computed": {"instructions": 1010, "ratio": 1.01},
        "skipped": {"instructions": 100, "ratio": 0.1},
    }


def test_rows_are_added_to_what_was_measured_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And to nothing else: by another command or version, a file is left as it is."""
    out, chosen = tmp_path / "found.json", ["--model=wan_narrow", "--row=one"]
    first, again = ({"computed": {"instructions": 3, "ratio": ratio}} for ratio in (1.5, 1.6))
    measured = iter([{"one": first, "other": first}, {"one": again}])
    monkeypatch.setattr(callgrind, "version", lambda: "3.19.0")
    monkeypatch.setattr(overhead_machine, "measure", lambda *_: next(measured))

    def run(*more: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["", *chosen, f"--out={out}", *more])
        overhead_machine.main()
        return json.loads(out.read_text())["models"]

    assert run() == {"wan_narrow": {"one": first, "other": first}}
    assert run() == {"wan_narrow": {"one": again, "other": first}}
    written = out.read_text()
    with pytest.raises(SystemExit, match="has another command than this run: give another"):
        run("--tiny")
    monkeypatch.setattr(callgrind, "version", lambda: "3.20.0")
    with pytest.raises(SystemExit, match="has another versions"):
        run()
    assert out.read_text() == written
