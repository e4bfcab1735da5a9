"""Two processes as torchrun starts them, and what they found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from devices import DEVICE

TESTS = Path(__file__).parents[1]

on_the_cpu = pytest.mark.skipif(
    DEVICE.type != "cpu", reason="processes that share one machine talk over gloo, on the CPU"
)


def launch(*command: str, processes: int = 2, timeout: float = 240, **extra: str) -> str:
    """What `torchrun` prints of a command; it must end well, and in time."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)} | extra
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    place = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    ended = subprocess.run(
        [*torchrun, *place, *command],
        env=environment,
        cwd=TESTS.parent,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    return ended.stdout


def both(folder: Path, *scenarios: str, processes: int = 2) -> dict[str, list[dict[str, Any]]]:
    """What each of two processes found, or of more, by scenario."""
    command = ("-m", "company.parallel_worker", str(folder), *scenarios)
    launch(*command, processes=processes)
    return {
        scenario: [torch.load(folder / f"{scenario}.{rank}.pt") for rank in range(processes)]
        for scenario in scenarios
    }
