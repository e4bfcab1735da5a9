"""What the demonstration shows: the before/after grid and the table of figures."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

HEADINGS = (
    "run",
    "time ratio",
    "blocks run",
    "attention run",
    "PSNR mean / worst",
    "SSIM",
    "attributes right",
)
ZOOM = 2
GAP = 8
GAIN = 4


def require() -> None:
    """Fail early, before any run, when a package of the `report` extra is missing."""
    needed = {"skimage": "scikit-image", "PIL": "pillow", "rich": "rich"}
    missing = [name for module, name in needed.items() if not importlib.util.find_spec(module)]
    if missing:
        raise AutocacheError(
            f"the demonstration needs {', '.join(missing)}: pip install 'autocache[report]'"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "identical"


def _psnr(mean: float, worst: float) -> str:
    if mean == worst == math.inf:
        return "identical"
    return f"{_decibels(mean)} / {_decibels(worst)}"


def rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The table's cells, one row per run, plain first."""
    plain = figures["plain"]
    right = _percent(plain["attributes"]["right"])
    table = [["plain", "1.00x", "100.0%", "100.0%", "-", "-", right]]
    fewer = figures["fewer_steps"]
    runs = {f"only {fewer['steps']} steps": fewer, **figures["strategies"]}
    for name, run in runs.items():
        table.append(
            [
                name,
                f"{run['time_ratio']:.2f}x",
                _percent(run["blocks_run"]),
                _percent(run["attention_run"]),
                _psnr(run["psnr_mean"], run["psnr_worst"]),
                f"{run['ssim']:.4f}",
                _percent(run["attributes"]["right"]),
            ]
        )
    return table


def caption(figures: Mapping[str, Any]) -> str:
    """One line on what was run."""
    prompts = f"{figures['prompts']} held-out prompt{'' if figures['prompts'] == 1 else 's'}"
    return (
        f"{prompts} in one batch, {figures['steps']} steps, "
        f"seed {figures['seed']}, guidance {figures['guidance']:g}; figures against the plain run"
    )


def markdown(figures: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [list(HEADINGS), ["---"] + ["---:"] * (len(HEADINGS) - 1), *rows(figures)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{caption(figures)}\n"


def table(figures: Mapping[str, Any]) -> Table:
    """The table for a terminal."""
    from rich import box
    from rich.table import Table

    shown = Table(caption=caption(figures), box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(HEADINGS):
        # In two lines, so that eighty columns hold them.
        first, _, rest = heading.partition(" ")
        lines = f"{first}\n{rest}" if rest else first
        shown.add_column(lines, justify="right" if place else "left", no_wrap=bool(place))
    for cells in rows(figures):
        shown.add_row(*cells)
    return shown


def grid(
    path: Path, captions: Sequence[str], plain: np.ndarray, cached: Mapping[str, np.ndarray]
) -> None:
    """Write the before/after picture: a row per prompt; plain, then each run and its difference.

    Differences are absolute and `GAIN` times as bright.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    columns = [("plain", plain)]
    for name, images in cached.items():
        columns += [(name, images), (f"difference x{GAIN}", np.abs(images - plain) * GAIN)]
    count, height, width = plain.shape[:3]
    font, line = ImageFont.load_default(11), 16
    cell_x, cell_y = width * ZOOM + GAP, height * ZOOM + line + GAP
    # A caption is wider than a lone pair of columns.
    total = max(len(columns) * cell_x + GAP, 620)
    sheet = Image.new("RGB", (total, line + GAP + count * cell_y), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (heading, images) in enumerate(columns):
        left = GAP + column * cell_x
        pen.text((left, GAP // 2), heading, fill="black", font=font)
        pixels = (images.clip(0, 1) * 255).round().astype(np.uint8)
        for row in range(count):
            tile = Image.fromarray(pixels[row]).resize(
                (width * ZOOM, height * ZOOM), Image.Resampling.NEAREST
            )
            sheet.paste(tile, (left, line + GAP + row * cell_y))
    for row, text in enumerate(captions):
        top = line + GAP + row * cell_y + height * ZOOM + 1
        pen.text((GAP, top), text, fill="black", font=font)
    sheet.save(path)
