"""Where to compute: the best steps by dynamic programming over recorded runs.

What a stretch of skipped steps costs follows from the recordings alone: the least squares error, in
the latent, of the best sum of the last computed outputs. Stretches add up, hence the best placement
of any number of steps is found exactly and at no run of the denoiser. What it does not see is that
a cached run leaves the recorded one; who needs to know runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from autocache.tuning.mixture import Mixture
    from autocache.tuning.trajectory import Trajectory

History = tuple[int, ...]
"""The last computed steps, oldest first."""

_RIDGE = 1e-8
_LONGEST = 3.0
"""Longest stretch looked at, in mean ones."""


class Placement:
    """The cost of every stretch of skipped steps, from uncached runs."""

    def __init__(self, trajectories: Sequence[Trajectory], mixture: Mixture, order: int = 3):
        self.total = len(trajectories[0].steps)
        self.order = order
        self.shares = np.array(mixture.shares)
        self._costs: dict[tuple[History, int], float] = {}
        self._kept, self._made = _responses(trajectories)
        self._square = np.zeros((self.total * mixture.count,) * 2)
        for trajectory in trajectories:
            parts = [p for s in trajectory.steps for p in mixture.parts(s.outputs, s.given)]
            columns = torch.stack([part.flatten() for part in parts]).double()
            self._square += (columns @ columns.T).numpy()

    def best(self, count: int, emphasis: Sequence[float] = (0.0,)) -> tuple[int, ...]:
        """The `count` steps to compute, the first among them, at the least sum of costs.

        `emphasis` weighs a stretch's cost by when it ends: exponents of ten at even distances from
        the first step to the last, in between on a line.
        """
        total = self.total
        if count >= total:
            return tuple(range(total))
        longest = math.ceil(_LONGEST * total / count)
        knots = np.linspace(0, total, len(emphasis))
        weight = 10.0 ** np.interp(range(total + 1), knots, emphasis)
        layers: list[dict[History, tuple[float, History]]] = [{(0,): (0.0, ())}]
        for nth in range(1, count):
            layer: dict[History, tuple[float, History]] = {}
            for history, (so_far, _) in layers[-1].items():
                last = history[-1]
                for end in range(last + 1, min(last + longest, total - count + nth) + 1):
                    cost = so_far + weight[end] * self.cost(history, end)
                    longer = (*history, end)[-self.order :]
                    if cost < layer.get(longer, (math.inf, ()))[0]:
                        layer[longer] = cost, history
            layers.append(layer)
        ends = {
            history: so_far + weight[total] * self.cost(history, total)
            for history, (so_far, _) in layers[-1].items()
        }
        history = min(ends, key=lambda one: ends[one])
        chosen = []
        for layer in reversed(layers):
            chosen.append(history[-1])
            history = layer[history][1]
        return tuple(reversed(chosen))

    def cost(self, history: History, end: int) -> float:
        """Square error of the latent at `end`, from the last computed step on."""
        key = history, end
        if key not in self._costs:
            self._costs[key] = self._cost(history, end)
        return self._costs[key]

    def _cost(self, history: History, end: int) -> float:
        count = self.shares.shape[1]
        span = range(history[-1], end)
        # What one unit of the output at each step of the stretch makes of the latent at its end.
        worth = [self._made[n] * math.prod(self._kept[n + 1 : end]) for n in span]
        true = np.zeros(len(self._square))
        for n, gain in zip(span, worth, strict=True):
            true[n * count : (n + 1) * count] = gain * self.shares[n]
        rows = [step * count + part for step in history for part in range(count)]
        scale = np.tile(np.array(worth) @ self.shares[list(span)], len(history))
        square = self._square[np.ix_(rows, rows)] * np.outer(scale, scale)
        target = scale * (self._square[rows] @ true)
        size = true @ self._square @ true
        ridge = _RIDGE * np.trace(square) / len(rows) or 1.0
        weights = np.linalg.solve(square + ridge * np.eye(len(rows)), target)
        left = size - 2 * weights @ target + weights @ square @ weights
        return max(0.0, float(left)) * math.prod(self._kept[end:]) ** 2


def _responses(trajectories: Sequence[Trajectory]) -> tuple[list[float], list[float]]:
    """At each step, what the scheduler keeps of the latent and makes of the output, as fitted."""
    kept, made = [], []
    for n in range(len(trajectories[0].steps)):
        square, target = np.zeros((2, 2)), np.zeros(2)
        for trajectory in trajectories:
            step = trajectory.steps[n]
            columns = torch.stack([step.latent.flatten(), step.given.flatten()]).double()
            square += (columns @ columns.T).numpy()
            target += (columns @ trajectory.latent(n + 1).flatten().double()).numpy()
        found = np.linalg.lstsq(square, target, rcond=1e-12)[0]
        kept.append(float(found[0]))
        made.append(float(found[1]))
    return kept, made
