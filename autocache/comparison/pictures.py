"""A comparison in pictures: a grid of what was drawn, and speed against quality."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.tuning.frontier_plot import Point
from autocache.tuning.frontier_plot import plot as draw_lines

if TYPE_CHECKING:
    import numpy as np

    from autocache.comparison.figures import Comparison

CELL, GAP, LINE, FONT = 160, 8, 15, 12
"""In pixels: the longer side of a picture, what is between two, a line of text and its letters."""
MOST_ROWS = 16
BASELINE = "fewer steps"


def grid(path: Path, labels: Sequence[str], columns: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write a sheet with a row for each input and a column for each run, under its name.

    Args:
        path: file to write, .png.
        labels: of the rows, at their left; the first 16 are drawn.
        columns: by name, floats in [0, 1], (height, width, channels) each, or with frames in front,
            of which the middle one is drawn.
    """
    from PIL import Image, ImageDraw, ImageFont

    first = _still(next(iter(columns.values()))[0])
    scale = CELL / max(first.size)
    width, height = (max(1, round(side * scale)) for side in first.size)
    # A small picture is to show its pixels as they are.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    letters = CELL // (FONT // 2) - 2
    headings = [textwrap.wrap(name, max(8, width * letters // CELL)) for name in columns]
    top = GAP + LINE * max(map(len, headings))
    rows = min(len(labels), MOST_ROWS)
    size = (CELL + 2 * GAP + len(columns) * (width + GAP), top + rows * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for row in range(rows):
        said = textwrap.wrap(labels[row], letters, max_lines=max(1, height // LINE))
        at = (GAP, top + row * (height + GAP))
        pen.multiline_text(at, "\n".join(said), fill="black", font=font)
    for place, (heading, samples) in enumerate(zip(headings, columns.values(), strict=True)):
        left = CELL + 2 * GAP + place * (width + GAP)
        pen.multiline_text((left, GAP // 2), "\n".join(heading), fill="black", font=font)
        for row in range(rows):
            picture = _still(samples[row]).convert("RGB").resize((width, height), how)
            sheet.paste(picture, (left, top + row * (height + GAP)))
    sheet.save(path)


def _still(sample: np.ndarray) -> Any:
    import numpy as np
    from PIL import Image

    if sample.ndim == 4:
        sample = sample[len(sample) // 2]
    pixels = (sample.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def plot(comparison: Comparison, folder: Path) -> bool:
    """Write speed against quality to plot.svg and plot.png: fewer steps as a line, each strategy as
    a point.

    Runs that differ in nothing have no place in it. Returns whether there was something to draw.
    """
    points: dict[str, list[Point]] = {}
    for row in comparison.rows:
        if row.speedup is None or row.psnr is None or not math.isfinite(row.psnr):
            continue
        name = BASELINE if row.kind == "fewer steps" else row.name
        points.setdefault(name, []).append(Point(1 / row.speedup, row.psnr))
    for kind in ("svg", "png") if points else ():
        file = folder / f"plot.{kind}"
        draw_lines(points, file, title="Speed against quality", against="time")
    return bool(points)
