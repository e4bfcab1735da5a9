"""The command line of a benchmark that counts, and takes times in rounds."""

from __future__ import annotations

import argparse
from pathlib import Path


def in_rounds(about: str | None, rounds: int, result: Path) -> argparse.ArgumentParser:
    """`about` is the script's docstring, the others are what it does if not told."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help="0 counts and takes no times")
    made.add_argument("--out", type=Path, default=result)
    return made
