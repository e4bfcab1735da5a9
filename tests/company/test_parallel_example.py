"""`examples/many_prompts.py`: the same pictures, however many processes draw them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from company.parallel_runner import TESTS, launch, on_the_cpu
from PIL import Image

import autocache

pytestmark = on_the_cpu

SCRIPT = TESTS.parent / "examples" / "many_prompts.py"
PROMPTS = (
    "a large plain red circle left of a small striped blue square on a grey background",
    "a small dotted green cross above a large plain yellow triangle on a sky background",
    "a large striped cyan square below a small plain magenta circle on a sand background",
)
STEPS = 8
PROFILE = "strategy: fbcache\nparameters: {threshold: 0.3}\n"


def arguments(prompts: Path, out: Path, strategy: str | None = None) -> list[str]:
    strategy = strategy or str(prompts.with_name("profile.yaml"))
    call = ("max_sequence_length=24", "height=64", "width=64")
    return [
        *("--model", autocache.demo.path("shapes"), "--prompts", str(prompts), "--out", str(out)),
        *("--steps", str(STEPS), "--strategy", strategy, "--seed", "7"),
        *(part for one in call for part in ("--call", one)),
    ]


def alone(*command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = (sys.executable, *command)
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=240
    ).stdout


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    path.with_name("profile.yaml").write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def one_process(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("one")
    return alone(str(SCRIPT), *arguments(prompts, out)), out


def test_by_itself(one_process: tuple[str, Path], prompts: Path, tmp_path: Path) -> None:
    """A picture for each prompt, cached: it differs from what the pipeline draws without."""
    said, out = one_process
    assert "process 0: 3 pictures" in said
    found = re.search(r"3 pictures, (\d+) of (\d+) \(.*\) block calls run", said)
    assert found
    assert 0 < int(found[1]) < int(found[2])
    alone(str(SCRIPT), *arguments(prompts, tmp_path, "none"))
    drawn, plain = pictures(out), pictures(tmp_path)
    assert len(drawn) == len(plain) == len(PROMPTS)
    assert all(not np.array_equal(*pair) for pair in zip(drawn, plain, strict=True))


def test_two_processes_of_torchrun(
    one_process: tuple[str, Path], prompts: Path, tmp_path: Path
) -> None:
    said = launch(str(SCRIPT), *arguments(prompts, tmp_path))
    assert "process 0: 2 pictures" in said
    assert "process 1: 1 pictures" in said
    _same(tmp_path, one_process[1])


def test_under_accelerate_launch(
    one_process: tuple[str, Path], prompts: Path, tmp_path: Path
) -> None:
    """One process: it starts several for accelerators only."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes=1")
    said = alone(*launcher, str(SCRIPT), *arguments(prompts, tmp_path))
    assert "process 0: 3 pictures" in said
    _same(tmp_path, one_process[1])


def _same(out: Path, expected: Path) -> None:
    drawn, known = pictures(out), pictures(expected)
    assert len(drawn) == len(PROMPTS)
    assert all(np.array_equal(*pair) for pair in zip(drawn, known, strict=True))
