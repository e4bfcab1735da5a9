"""Scripts that know nothing of autocache, run in an interpreter of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run this interpreter with arguments, in an empty folder, with AUTOCACHE* as given only."""
    if importlib.util.find_spec("_autocache_boot") is None:
        pytest.fail("autocache.pth is not live: install the package first (make test does)")

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOCACHE", "PYTHON"))}
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**kept, **quiet, **environment},
            cwd=tmp_path_factory.mktemp("run"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
