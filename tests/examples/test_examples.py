"""The examples, each run in a process of its own by the command that their README gives for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import autocache
from scripts import ROOT

FOLDER = ROOT / "examples"
IGNORED = {"__pycache__", ".ipynb_checkpoints", "README.md"}
OUT = Path("build/examples")
ROW = re.compile(
    r"^\| \[(?P<file>[^]]+)\]\((?P<link>[^)]+)\) \|.*?(?:\| `(?P<command>[^|]+)` )?\|$"
)
RAN = re.compile(r"(\d+) of (\d+) \(\d+\.\d%\)")
FASTER = re.compile(r"\d+\.\d\d times as fast")
DECIBELS = re.compile(r"PSNR (\d+\.\d) dB")

ELSEWHERE = {
    "tour.ipynb": "examples/test_tour.py",
    "server.py": "company/test_server.py",
    "many_prompts.py": "company/test_parallel_example.py",
    "custom_model/sample.py": "test_custom_model.py",
    "custom_strategy.py": "examples/test_migrations.py",
    "migrating/from_cache_dit.py": "examples/test_migrations.py",
    "migrating/from_diffusers.py": "examples/test_migrations.py",
    "migrating/from_teacache.py": "examples/test_migrations.py",
    "migrating/from_mindie_sd.py": "examples/test_migrations.py",
}
"""Those that another test runs in a process of its own, with more to ask of them."""


@dataclass(frozen=True)
class Done:
    """What a command said, and the folder that it ran in."""

    said: str
    logged: str
    folder: Path

    def shares(self) -> list[float]:
        """What was run of all there was to run, in the order it was said."""
        return [int(run) / int(total) for run, total in RAN.findall(self.said)]

    def nearness(self) -> list[float]:
        """Each PSNR that was said, in dB."""
        return [float(said) for said in DECIBELS.findall(self.said)]

    def picture(self, name: str) -> np.ndarray:
        """A picture it wrote, as floats in [0, 1]."""
        return np.asarray(Image.open(self.folder / OUT / name), dtype=float) / 255


def rows() -> dict[str, str | None]:
    """Each file of the README's tables, with its command where it has one."""
    found = [ROW.match(line) for line in (FOLDER / "README.md").read_text().splitlines()]
    assert all(match["file"] == match["link"] for match in found if match)
    return {match["file"]: match["command"] for match in found if match}


def infer(done: Done) -> None:
    assert "4 pictures in" in done.said
    assert "autocache" not in done.logged
    assert done.picture("infer/003.png").shape == (64, 64, 3)


def environment(done: Done) -> None:
    """It is the script of the other row that was sped up, and by the profile."""
    assert FASTER.search(done.said)
    assert "on FluxTransformer2DModel, 4+8 blocks" in done.logged
    assert "profile examples/profile.yaml" in done.logged
    (run,) = json.loads((done.folder / OUT / "stats.json").read_text())
    assert run["strategy"] == "teacache"
    assert 0 < run["block_calls"]["run"] < run["block_calls"]["total"]
    plain, cached = (
        np.load(done.folder / OUT / f"{run}/images.npy") for run in ("plain", "cached")
    )
    assert 0 < np.abs(plain - cached).mean() < 0.05


def one_line(done: Done) -> None:
    assert FASTER.search(done.said)
    assert done.shares()[0] == 0.5
    both = done.picture("one_line.png")
    assert both.shape == (64, 128, 3)
    assert 0 <= np.abs(both[:, :64] - both[:, 64:]).mean() < 0.05
    assert min(done.nearness()) > 30


def video_two_experts(done: Done) -> None:
    """The README's claim: both denoisers run, and both skip."""
    first, second, both = done.shares()
    assert 0 < first < 1
    assert 0 < second < 1
    assert both == 0.5
    assert FASTER.search(done.said)
    assert min(done.nearness()) > 30
    with Image.open(done.folder / OUT / "video_two_experts.gif") as clip:
        assert (clip.size, getattr(clip, "n_frames", 1)) == ((64, 32), 17)


def controlnet(done: Done) -> None:
    assert done.shares()[0] < 0.5
    assert "ControlNet run: 30 of 30" in done.said
    assert FASTER.search(done.said)
    same, other = done.nearness()
    assert same > other, "the control image says more than caching costs"


def compiled(done: Done) -> None:
    assert re.search(r"compiling with (inductor|aot_eager):", done.said)
    assert done.shares() == [0.5]
    assert " 0 graphs more" in done.said
    assert FASTER.search(done.said)


def offload(done: Done) -> None:
    brought = re.search(r"weights brought (\d+) times instead of (\d+)", done.said)
    assert brought
    assert 0 < int(brought[1]) < int(brought[2])
    assert "64 MiB allowed" in done.said
    assert FASTER.search(done.said)


def tune(done: Done) -> None:
    """What was written is a profile that holds, and better than what knows nothing of the model."""
    profile = autocache.Profile.read(done.folder / OUT / "fast.yaml")
    assert profile.measured
    assert profile.measured.compute <= 1 / 3
    assert len(FASTER.findall(done.said)) == 2
    schedule, auto = done.shares()
    assert schedule <= auto
    tuned, untuned = done.nearness()
    assert tuned > untuned


def compare(done: Done) -> None:
    """What was asked for was run, each beside fewer steps, and shown."""
    folder = done.folder / OUT / "compare"
    found = json.loads((folder / "figures.json").read_text())["rows"]
    named = {row["name"]: row for row in found if row["kind"] == "strategy"}
    assert len(named) == 3
    assert {row["kind"] for row in found} == {"plain", "fewer steps", "strategy"}
    for row in named.values():
        assert row["problem"] is None
        assert row["compute"] < 1
        assert row["psnr"] > 30
        assert row["psnr_gain"] is not None
    assert "fbcache" in done.said
    assert Image.open(folder / "grid.png").size > (64, 64)
    assert (folder / "plot.svg").stat().st_size


CHECKS: dict[str, Callable[[Done], None]] = {
    "infer.py": infer,
    "environment.sh": environment,
    "one_line.py": one_line,
    "video_two_experts.py": video_two_experts,
    "controlnet.py": controlnet,
    "compile.py": compiled,
    "offload.py": offload,
    "tune.py": tune,
    "compare.py": compare,
}


@pytest.mark.parametrize("file", CHECKS)
def test_an_example_does_what_it_says(file: str, tmp_path: Path) -> None:
    command = rows()[file]
    assert command
    (tmp_path / "examples").symlink_to(FOLDER)
    environment = {key: value for key, value in os.environ.items() if "AUTOCACHE" not in key}
    environment |= {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"])),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    CHECKS[file](Done(done.stdout, done.stderr, tmp_path))


def test_the_readme_names_every_file() -> None:
    """A folder that is named stands for what is in it."""
    known = rows()
    there = [path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()]
    kept = [path for path in there if not IGNORED & set(path.parts)]
    for path in kept:
        assert {str(path), *map(str, path.parents)} & known.keys(), path
    for name in known:
        assert (FOLDER / name).exists(), name


def test_every_command_is_run() -> None:
    """Here, or by a test that names the file."""
    for file, command in rows().items():
        if command and file not in CHECKS:
            test = ROOT / "tests" / ELSEWHERE[file]
            assert Path(file).stem in test.read_text(), file
