"""One way to run a model faster, and what it was seen to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """A strategy with parameters as `autocache.patch` takes them, and what was measured of it."""

    strategy: str
    parameters: Mapping[str, Any]
    compute: float
    """Share of the denoisers' compute that is left."""
    psnr: float
    """Mean over the inputs of the PSNR in dB against the uncached run."""
    p10: float
    """Its 10th percentile."""
    beside: Sequence[str] = ()
    """Lossless strategies that are at work with it."""

    @property
    def choice(self) -> list[tuple[str, Mapping[str, Any]]]:
        """As `autocache.patch` takes it."""
        return [*((name, {}) for name in self.beside), (self.strategy, self.parameters)]

    @property
    def score(self) -> float:
        """What candidates of one compute are compared by: one input that tips over counts too."""
        return (self.psnr + self.p10) / 2


def summary(decibels: Sequence[float]) -> tuple[float, float]:
    """Mean and 10th percentile; an input without any error counts as 120 dB."""
    finite = np.minimum(np.asarray(decibels, dtype=float), 120.0)
    return float(finite.mean()), float(np.percentile(finite, 10))
