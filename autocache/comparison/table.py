"""The figures of a comparison as a table for a terminal."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from autocache.comparison.figures import Comparison, Row

HEADINGS = (
    "run",
    "speed",
    "range",
    "compute",
    "PSNR/worst",
    "SSIM",
    "fewer steps",
    "MiB",
)


def table(comparison: Comparison) -> Table:
    """A row for each run; `caption` says the rest."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Eighty columns have to do.
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        name, *figures = cells(row)
        # A long name breaks between its parameters; it may hold brackets, which are no markup.
        shown.add_row(*map(Text, [re.sub("([:,+])", r"\1 ", name), *figures]))
    return shown


def caption(comparison: Comparison) -> str:
    """How it was measured, in a line, and a line for each row without figures and each note."""
    rounds, samples = comparison.rounds, comparison.samples
    lines = [
        f"{_counted(samples, 'sample')}, {comparison.steps} steps; PSNR in dB, mean and worst, "
        "against the plain run from the same noise",
        f"speed: median and range of {_counted(rounds, 'round')}, a plain run right beside each "
        f"cached one, on {comparison.machine}",
        "fewer steps: dB above so many steps without a cache, which cost about the same; MiB: most "
        "that was cached",
        *(f"{row.name}: {row.problem}" for row in comparison.problems),
        *(f"note: {note}" for note in comparison.notes),
    ]
    return "\n".join(lines)


def cells(row: Row) -> list[str]:
    """One row's cells, by `HEADINGS`."""
    if row.problem:
        return [row.name, *["-"] * (len(HEADINGS) - 1)]
    alike = row.psnr is not None and math.isinf(row.psnr)
    return [
        row.name,
        "-" if row.speedup is None else f"{row.speedup:.2f}x",
        "-" if row.kind == "plain" else f"{row.speedup_low:.2f}–{row.speedup_high:.2f}",
        "-" if row.compute is None else f"{row.compute:.1%}",
        "-" if row.psnr is None else "identical" if alike else _decibels(row),
        "-" if row.ssim is None else f"{row.ssim:.4f}",
        _gain(row),
        "-"
        if row.kind != "strategy" or row.bytes_peak is None
        else f"{row.bytes_peak / 2**20:.1f}",
    ]


def _decibels(row: Row) -> str:
    assert row.psnr_worst is not None
    return f"{row.psnr:.1f}/{row.psnr_worst:.1f}"


def _gain(row: Row) -> str:
    if row.psnr_gain is None:
        return "-"
    return f"{row.psnr_gain:+.1f} to {row.steps_same_cost}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
