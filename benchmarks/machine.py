"""What a result says of where it was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import diffusers
import torch

import autocache


def processor() -> str:
    """The processor's name as Linux gives it, else whatever the platform module knows."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*others: str) -> dict[str, str]:
    """Of Python, torch, diffusers and autocache, and of further packages by name."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "autocache": autocache.__version__,
        **{name: version(name) for name in others},
    }


def host() -> dict[str, Any]:
    """The processor, its cores, and how many threads torch uses."""
    return {"processor": processor(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
