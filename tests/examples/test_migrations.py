"""The scripts for those who come from elsewhere: both sides run, and compute the same steps."""

from __future__ import annotations

import os
import platform
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import ROOT

FOLDER = ROOT / "examples" / "migrating"
STEPS = 28
PUBLISHED = (
    sys.implementation.name == "cpython"
    and sys.version_info[:2] in ((3, 11), (3, 12))
    and (sys.platform, platform.machine()) == ("linux", "x86_64")
)
"""Whether MindIE-SD has a wheel for this interpreter."""
LINE = re.compile(r"^(\S+) +([Cr]{28})  (\d+) of 28 computed$", re.MULTILINE)
APART = re.compile(r"largest difference of a pixel: (\S+)")
# float32, and a residual kept for both stacks together there and for each here.
CLOSE = 1e-5


def run(name: str, *arguments: str, folder: Path = ROOT) -> str:
    """What a script says, run by its command."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def agree(said: str, peer: str, times: int = 1) -> list[str]:
    """The steps of each pair, which have to be the same, and some of them skipped."""
    lines = LINE.findall(said)
    assert [name for name, *_ in lines] == [peer, "autocache"] * times
    theirs, ours = [steps for _, steps, _ in lines[::2]], [steps for _, steps, _ in lines[1::2]]
    assert theirs == ours
    assert all(4 < steps.count("C") < STEPS - 4 for steps in ours)
    assert all(int(count) == steps.count("C") for _, steps, count in lines)
    assert said.count("steps differ: none") == times
    distances = [float(apart) for apart in APART.findall(said)]
    assert len(distances) == times
    assert max(distances) < CLOSE
    return ours


def test_from_the_caches_of_diffusers() -> None:
    """All four that apply to an image pipeline; each has steps of its own."""
    said = run("from_diffusers.py")
    names = re.findall(r"^(\w+) -> (\w+)$", said, re.MULTILINE)
    assert [ours for _, ours in names] == ["fbcache", "magcache", "taylorseer", "pab"]
    assert len(set(agree(said, "diffusers", times=4))) == 4


def test_from_a_fork_in_the_manner_of_teacache() -> None:
    """First and last step computed, and what lies between decided by the change."""
    (steps,) = agree(run("from_teacache.py"), "fork")
    assert (steps[0], steps[-1]) == ("C", "C")


def test_from_cache_dit() -> None:
    """Its warm-up is kept, and later steps are decided by the first block."""
    (steps,) = agree(run("from_cache_dit.py"), "cache-dit")
    assert steps.startswith("CCCC")


def test_from_mindie_sd() -> None:
    """A fixed schedule: every second step from the sixth on."""
    if not sorted((Path(sys.prefix) / "peers").glob("mindiesd-*.whl")) and not PUBLISHED:
        pytest.skip("MindIE-SD publishes no wheel for this Python on this platform")
    (steps,) = agree(run("from_mindie_sd.py"), "CacheAgent")
    assert steps == "C" * 6 + "Cr" * 11


MISSING = [
    pytest.param("from_cache_dit.py", (), "pip install cache-dit", id="cache-dit"),
    pytest.param(
        "from_mindie_sd.py",
        ("--wheel", "no/such.whl"),
        "pip download --no-deps mindiesd",
        id="mindie-sd",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "remedy"), MISSING)
def test_a_peer_that_is_missing_is_named(
    name: str,
    arguments: tuple[str, ...],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that says what to install, after what others warn of, and status 2."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    # An entry of None is a module that cannot be found.
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    monkeypatch.delitem(sys.modules, "bundled", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    monkeypatch.delitem(sys.modules, "bundled", raising=False)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert remedy in said.err.splitlines()[-1]
    assert not said.out


def test_a_strategy_of_ones_own() -> None:
    """Published parts and an own rule: each skips, and extrapolation is nearer than reuse."""
    said = run("../custom_strategy.py")
    line = re.compile(r"^(.+?) +([Cr]{28}) +([\d.]+)% +([\d.]+)% +([\d.]+) dB$", re.MULTILINE)
    found = {name: (steps, *map(float, rest)) for name, steps, *rest in line.findall(said)}
    assert len(found) == 5
    for name, (steps, blocks, attention, quality) in found.items():
        assert 0 < steps.count("r") < STEPS - 4, name
        assert attention < 70, name
        assert (blocks == 100) == ("attention" in name), name
        assert 25 < quality < 60, name
    reused, extrapolated = list(found.values())[:2]
    assert reused[:3] == extrapolated[:3]
    assert extrapolated[3] > reused[3]
    assert found["own rule, inner blocks"][0] != reused[0]
