"""TeaCache's polynomial: fitted to pairs of changes, and judged on inputs it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autocache.errors import CalibrationError
from autocache.tuning.recording import OUTPUT, Series
from autocache.when.accumulated import polynomial

SHARES = (0.6, 0.5, 0.4)
"""Of the steps, computed at the three thresholds, gentlest first."""
FOLDS = 5


@dataclass(frozen=True)
class Pairs:
    """The change of a probe and that of the output, from one step to the next: in rows, one for
    each series (one guidance branch of one input)."""

    probe: str
    entries: tuple[int, ...]
    """For each row the input it is of."""
    x: tuple[np.ndarray, ...]
    y: tuple[np.ndarray, ...]

    def of(self, chosen: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Those of some of the rows, pooled, but for what is no number."""
        rows = list(chosen)
        x = np.concatenate([self.x[row] for row in rows])
        y = np.concatenate([self.y[row] for row in rows])
        finite = np.isfinite(x) & np.isfinite(y)
        return x[finite], y[finite]


@dataclass(frozen=True)
class TeaCacheFit:
    """A polynomial for one probe, and how well it tells the change of the output."""

    probe: str
    coefficients: tuple[float, ...]
    """Highest order first."""
    thresholds: tuple[float, ...]
    """Gentlest first: at them 60, 50 and 40 % of the steps are computed."""
    valid_for: tuple[float, float]
    """The least and the largest change it was fitted to."""
    r2: float
    """Share of the variance that it explains where it was fitted."""
    held_out_r2: float | None
    """The same on inputs that it was not fitted to, each left out in turn (in five groups);
    negative where the mean would do better, None where there is one input only."""
    rank_correlation: float | None
    """Spearman's, between what it says of inputs left out and what was; None for one input."""
    falling: float
    """Share of the range in which it falls: more change of the probe counts as less."""
    negative: float
    """Share of the range in which it is below zero."""
    pairs: int
    inputs: int

    @property
    def score(self) -> float:
        """To choose among probes by: what it explains on other inputs."""
        return self.r2 if self.held_out_r2 is None else self.held_out_r2

    def __str__(self) -> str:
        if self.held_out_r2 is None or self.rank_correlation is None:
            return f"{self.probe}: R² {self.r2:.2f} of the fit, with no other input to test it on"
        return (
            f"{self.probe}: R² {self.held_out_r2:.2f} and rank correlation "
            f"{self.rank_correlation:.2f} on inputs it was not fitted to"
        )

    def predicts(self, min_r2: float, min_rank: float) -> bool:
        """Whether it says enough of the output of another input, by either of two measures."""
        if self.held_out_r2 is None or self.rank_correlation is None:
            return False
        return self.held_out_r2 >= min_r2 or self.rank_correlation >= min_rank


def pairs(series: Sequence[Series], probe: str, warmup_steps: int = 1) -> Pairs:
    """The pairs of one probe, of steps from `warmup_steps` on.

    Raises:
        CalibrationError: it was not measured in any.
    """
    entries, xs, ys = [], [], []
    for one in series:
        x, y = one.changes.get(probe, {}), one.changes.get(OUTPUT, {})
        steps = sorted(step for step in x if step in y and step >= warmup_steps)
        if steps:
            entries.append(one.entry)
            xs.append(np.array([x[step] for step in steps]))
            ys.append(np.array([y[step] for step in steps]))
    if not xs:
        raise CalibrationError(
            f"{probe}: not measured in two consecutive steps after the first {warmup_steps}; give "
            "more steps"
        )
    return Pairs(probe, tuple(entries), tuple(xs), tuple(ys))


def fit(found: Pairs, order: int = 4, warmup_steps: int = 1) -> TeaCacheFit:
    """The polynomial of an order, by least squares over all pairs, and its thresholds.

    Raises:
        CalibrationError: there are too few pairs for it.
    """
    rows = range(len(found.x))
    x, y = found.of(rows)
    if len(np.unique(x)) <= order + 1:
        raise CalibrationError(
            f"{found.probe}: {len(np.unique(x))} different changes are too few to fit a polynomial "
            f"of order {order}; give more inputs, more steps or a lower order"
        )
    coefficients = _fitted(x, y, order)
    predicted, held_out = _left_out(found, order)
    grid = _values(coefficients, np.linspace(x.min(), x.max(), 201))
    return TeaCacheFit(
        probe=found.probe,
        coefficients=coefficients,
        thresholds=tuple(_thresholds(found, coefficients, warmup_steps)),
        valid_for=(_rounded(x.min(), 4), _rounded(x.max(), 4)),
        r2=_r2(y, _values(coefficients, x)),
        held_out_r2=None if predicted is None else _r2(held_out, predicted),
        rank_correlation=None if predicted is None else spearman(held_out, predicted),
        falling=float(np.mean(np.diff(grid) < 0)),
        negative=float(np.mean(grid < 0)),
        pairs=len(x),
        inputs=len(set(found.entries)),
    )


def _fitted(x: np.ndarray, y: np.ndarray, order: int) -> tuple[float, ...]:
    # In full it does not warn of a poor fit: that shows on the inputs left out.
    found = np.polyfit(x, y, order, full=True)[0]
    return tuple(_rounded(c, 6) for c in found)


def _left_out(found: Pairs, order: int) -> tuple[np.ndarray | None, np.ndarray]:
    """What polynomials fitted to the other inputs say of each group of inputs, and what was."""
    inputs = sorted(set(found.entries))
    said, was = [], []
    for fold in range(min(FOLDS, len(inputs)) if len(inputs) > 1 else 0):
        out = set(inputs[fold::FOLDS])
        rows = range(len(found.entries))
        x, y = found.of(row for row in rows if found.entries[row] not in out)
        left, there = found.of(row for row in rows if found.entries[row] in out)
        said.append(_values(_fitted(x, y, order), left))
        was.append(there)
    if not said:
        return None, np.array([])
    return np.concatenate(said), np.concatenate(was)


def _values(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    return np.array([polynomial(coefficients, float(value)) for value in x])


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _r2(y: np.ndarray, predicted: np.ndarray) -> float:
    variance = float(np.square(y - y.mean()).sum())
    return 1 - float(np.square(y - predicted).sum()) / variance if variance else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing the mean of theirs; 0 where one is constant."""
    one, other = _ranks(a), _ranks(b)
    if not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]


def _thresholds(
    found: Pairs, coefficients: tuple[float, ...], warmup_steps: int
) -> Iterable[float]:
    """The least ones at which no more than the wanted shares are computed, over all series; fewer
    where the warm-up alone takes more, or where the polynomial tells no changes apart."""
    runs = [np.maximum(_values(coefficients, x), 0.0) for x in found.x]
    positive = [value for run in runs for value in run if value > 0]
    if not positive:
        return
    highest = max(run.sum() for run in runs)
    grid = np.geomspace(min(positive), highest, 400)
    means = [np.mean([_computed(run, level, warmup_steps) for run in runs]) for level in grid]
    for share in SHARES:
        for level, mean in zip(grid, means, strict=True):
            if mean <= share:
                yield _rounded(level, 3)
                break


def _computed(run: np.ndarray, threshold: float, warmup_steps: int) -> float:
    """The share of the steps that the rule computes, those of the warm-up and the last always."""
    total, count = 0.0, warmup_steps + 1
    for change in run[:-1]:
        total += change
        if total >= threshold:
            total, count = 0.0, count + 1
    return count / (len(run) + warmup_steps)
