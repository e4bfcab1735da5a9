"""What a comparison found, row by row, in plain values."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocache.jsonable import jsonable
from autocache.metrics import SMALLEST, mean_psnr, psnr, relative_l1, ssim

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Row:
    """One way to run the pipeline, held against the pipeline as it is.

    Figures are None where there is a `problem`, and where they mean nothing.
    """

    name: str
    kind: Literal["plain", "fewer steps", "strategy"]
    problem: str | None = None
    """Why it could not be run."""
    speedup: float | None = None
    """Seconds of the plain run over its own, measured one after the other: median over rounds."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    seconds: float | None = None
    """Of all inputs, decoder and text encoder included: median over rounds."""
    compute: float | None = None
    """Share of the denoisers' compute that is left."""
    psnr: float | None = None
    """Mean in dB over the samples that differ from the plain run's; inf where none does."""
    psnr_worst: float | None = None
    ssim: float | None = None
    """Mean over the samples, 1 for identical ones."""
    relative_l1: float | None = None
    bytes_peak: int | None = None
    """Most bytes of cached tensors."""
    steps_same_cost: int | None = None
    """Number of steps without a cache whose compute is nearest."""
    psnr_gain: float | None = None
    """dB above the run of that many steps."""


@dataclass(frozen=True)
class Comparison:
    """Rows in the order plain, fewer steps, strategies, and how they were measured."""

    rows: tuple[Row, ...]
    rounds: int
    samples: int
    steps: int
    machine: str
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Row, ...]:
        """The rows of what could not be run."""
        return tuple(row for row in self.rows if row.problem)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; floats that JSON lacks are the strings "inf" and "nan"."""
        return jsonable(
            {
                "samples": self.samples,
                "steps": self.steps,
                "rounds": self.rounds,
                "machine": self.machine,
                "folder": str(self.folder),
                "notes": list(self.notes),
                "rows": [asdict(row) for row in self.rows],
            }
        )

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """A line for each row, under the names of the fields of `Row`."""
        text = io.StringIO()
        names = [field.name for field in fields(Row)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue()


def quality(plain: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> dict[str, Any]:
    """PSNR, SSIM and relative L1 of samples against the plain run's, as fields of `Row`."""
    pairs = list(zip(plain, other, strict=True))
    decibels = [psnr(one[None], two[None])[0] for one, two in pairs]
    found: dict[str, Any] = {
        "psnr": mean_psnr(decibels),
        "psnr_worst": min(decibels),
        "relative_l1": statistics.fmean(relative_l1(one[None], two[None])[0] for one, two in pairs),
    }
    if all(is_picture(one) for one in plain):
        each = [statistics.fmean(ssim(_frames(one), _frames(two))) for one, two in pairs]
        found["ssim"] = statistics.fmean(each)
    return found


def is_picture(sample: np.ndarray) -> bool:
    """Whether it is a picture or a clip, large enough to be compared as such."""
    large = min(sample.shape[-3:-1], default=0) >= SMALLEST
    return sample.ndim in (3, 4) and sample.shape[-1] in (1, 3, 4) and large


def _frames(sample: np.ndarray) -> np.ndarray:
    return sample if sample.ndim == 4 else sample[None]


def speed(pairs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Fields of `Row` from the seconds of plain and own runs, pair by pair."""
    if not pairs:
        return {}
    ratios = [plain / own for plain, own in pairs]
    return {
        "speedup": statistics.median(ratios),
        "speedup_low": min(ratios),
        "speedup_high": max(ratios),
        "seconds": statistics.median(own for _, own in pairs),
    }
