"""MagCache's ratios: the mean over inputs, and how far single inputs are from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autocache.errors import CalibrationError
from autocache.tuning.recording import MOVE, RATIO, TURN, Series
from autocache.when.magnitude import unconditional

Branch = Literal["all", "cond", "uncond"]

MAX_SPREAD = 0.06
"""The error that all skipped steps together may have by default: where the ratios of two inputs
differ by that, one table cannot tell for both which steps to skip."""
MAX_TURN = 0.1
"""Cosine distance from which on a residual has turned by more than a quarter of a right angle, and
its length says little of how far it moved."""


@dataclass(frozen=True)
class MagCacheFit:
    """The ratios of each guidance branch, and how far inputs differ in them."""

    ratios: dict[Branch, tuple[float, ...]]
    """One for each step, that of the first being 1."""
    spread: float | None
    """Standard deviation between inputs, as the root of its mean square over the steps; None where
    there is one input only."""
    turn: float
    """Cosine distance between the residuals of consecutive steps: the median over the steps."""
    move: float
    """Relative change of the residual from step to step, which a step skipped alone is off by: the
    median over the steps."""
    steps: int
    inputs: int

    def __str__(self) -> str:
        spread = "unknown, there being one input" if self.spread is None else f"{self.spread:.3g}"
        return (
            f"{self.steps} steps, spread between inputs {spread}, cosine distance between "
            f"consecutive residuals {self.turn:.3g}, change {self.move:.3g}"
        )

    def faults(self) -> list[str]:
        """Why skipping by it would be meaningless."""
        found = []
        if self.spread is not None and self.spread > MAX_SPREAD:
            found.append(
                f"the ratios of one step differ by {self.spread:.3g} between inputs, and "
                f"{MAX_SPREAD} is all the error that skipped steps may add up"
            )
        if self.turn > MAX_TURN:
            found.append(
                f"from step to step the residual turns (cosine distance {self.turn:.3g}, at most "
                f"{MAX_TURN}), so that its length does not tell how far it moved"
            )
        return found


def fit(series: Sequence[Series]) -> MagCacheFit:
    """The mean over inputs for each step; a denoiser's first step has the ratio 1.

    Raises:
        CalibrationError: inputs differ in their number of steps, or too few steps were run.
    """
    rows: dict[Branch, dict[int, list[dict[int, float]]]] = {"cond": {}, "uncond": {}}
    for one in series:
        branch: Branch = "uncond" if unconditional(one.branch) else "cond"
        rows[branch].setdefault(one.entry, []).append(one.changes.get(RATIO, {}))
    tables: dict[Branch, np.ndarray] = {
        branch: _table(list(found.values())) for branch, found in rows.items() if found
    }
    length = {table.shape[1] for table in tables.values()}
    if len(length) != 1 or min(length) < 3:
        raise CalibrationError(
            f"magcache has a ratio for every step, and {sorted(length)} steps were measured; give "
            "every input the same number of steps, three at least"
        )
    if len(tables) == 1:
        tables = {"all": next(iter(tables.values()))}
    inputs = min(len(table) for table in tables.values())
    return MagCacheFit(
        ratios={branch: tuple(_rounded(table.mean(0))) for branch, table in tables.items()},
        spread=_spread(list(tables.values())) if inputs > 1 else None,
        turn=_median(series, TURN),
        move=_median(series, MOVE),
        steps=length.pop(),
        inputs=inputs,
    )


def _table(inputs: list[list[dict[int, float]]]) -> np.ndarray:
    """(inputs, steps): the series of one input are of several denoisers, or alike branches."""
    lengths = {1 + max((step for one in found for step in one), default=-1) for found in inputs}
    if len(lengths) > 1:
        raise CalibrationError(
            f"magcache has a ratio for every step, and the inputs run {sorted(lengths)} steps; "
            "give every input the same number"
        )
    table = np.ones((len(inputs), lengths.pop()))
    for row, found in zip(table, inputs, strict=True):
        for step in range(len(row)):
            known = [one[step] for one in found if step in one]
            if known:
                row[step] = np.mean(known)
    return table


def _rounded(ratios: np.ndarray) -> list[float]:
    return [float(f"{ratio:.6g}") for ratio in ratios]


def _spread(tables: list[np.ndarray]) -> float:
    variances = np.concatenate([table.var(0, ddof=1)[1:] for table in tables])
    return float(np.sqrt(variances.mean()))


def _median(series: Sequence[Series], name: str) -> float:
    steps: dict[int, list[float]] = {}
    for one in series:
        for step, value in one.changes.get(name, {}).items():
            steps.setdefault(step, []).append(value)
    return float(np.median([np.mean(values) for values in steps.values()]))
