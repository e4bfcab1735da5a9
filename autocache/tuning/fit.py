"""The weights of a schedule, fitted to uncached runs while it runs.

From one computed step to the next the denoiser's outputs stand in as one weighted sum of the last
computed ones. The weights are those that bring the latent, at the next computed step, nearest to
where the uncached run had it: linear least squares, since what a scheduler makes of outputs is
linear in them. The run goes on from the fitted latent, so that each fit also makes good for what
the ones before it left over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autocache.api import patched
from autocache.how import Reuse
from autocache.tuning.mixture import Mixture
from autocache.tuning.observe import Observed
from autocache.tuning.simulate import simulate
from autocache.tuning.trajectory import host
from autocache.when import Always

if TYPE_CHECKING:
    from autocache.runtime.moment import Call
    from autocache.tuning.trajectory import Trajectory
    from autocache.tuning.workload import Workload

RIDGE = 1e-4
"""Of the mean square of the terms: how much an ill-posed fit leans on the latest output."""


@dataclass
class Normal:
    """The normal equations of a least squares fit, of however many runs."""

    size: int
    square: np.ndarray = field(init=False)
    target: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.square = np.zeros((self.size, self.size))
        self.target = np.zeros(self.size)

    def add(self, terms: Sequence[torch.Tensor], wanted: torch.Tensor) -> None:
        """Terms whose weighted sum is to be `wanted`."""
        columns = torch.stack([term.flatten() for term in terms]).double()
        self.square += (columns @ columns.T).numpy()
        self.target += (columns @ wanted.flatten().double()).numpy()

    @classmethod
    def sum(cls, several: Sequence[Normal]) -> Normal:
        """Those of all their runs together."""
        total = cls(several[0].size)
        for one in several:
            total.square += one.square
            total.target += one.target
        return total

    def solve(self, prior: np.ndarray) -> np.ndarray:
        """The weights; what the terms leave open is as in `prior`."""
        ridge = RIDGE * np.trace(self.square) / self.size or 1.0
        return prior + np.linalg.solve(
            self.square + ridge * np.eye(self.size), self.target - self.square @ prior
        )


@dataclass
class Fit:
    """Weights for the chosen steps, and how far each input ended from its uncached run."""

    weights: dict[str, list[list[list[float]]]]
    errors: list[float]
    """Mean squares of what the final latents are off by, one for each input."""


def fit(
    workload: Workload,
    trajectories: Sequence[Trajectory],
    steps: Sequence[int],
    mixture: Mixture,
    order: int,
    folds: int = 1,
) -> Fit:
    """Run the schedule over all inputs, fitting as it goes.

    `order` is how many computed outputs a sum has at most. Of several folds each input belongs to
    one, and runs with weights that were fitted to the others: the errors are those of inputs that
    nothing was fitted to. With several calls of the pipeline a fit rests on all up to then; the
    first, which had next to nothing to rest on, is run again at the end.
    """
    fitting = _Fitting(steps, len(trajectories[0].steps), mixture, order, folds)
    calls = list(zip(workload.calls(), trajectories, strict=True))
    errors: list[list[float]] = [[] for _ in calls]
    again = [0] if len(calls) > 1 and folds > 1 else []
    for nth in [*range(len(calls)), *again]:
        call, trajectory = calls[nth]
        first = sum(len(one.samples) for one in trajectories[:nth])
        fitting.begin(trajectory, first, errors[nth] != [])
        with patched(workload.pipe, when=Always(), where=Observed(fitting), how=Reuse()):
            samples = workload.draw(call, pictures=False)
        pairs = zip(samples, trajectory.samples, strict=True)
        errors[nth] = [float(np.mean((one - whole) ** 2)) for one, whole in pairs]
    return Fit(fitting.weights(), [error for one in errors for error in one])


class _Fitting:
    """The observer that computes the chosen steps only, and gives the scheduler what is fitted."""

    def __init__(
        self, steps: Sequence[int], total: int, mixture: Mixture, order: int, folds: int
    ) -> None:
        self.mixture = mixture
        self.order = order
        self.folds = folds
        self.ends = dict(zip(steps, [*steps[1:], total], strict=True))
        self.normals: dict[int, list[Normal]] = {}

    def begin(self, trajectory: Trajectory, first: int, known: bool) -> None:
        """A call of the pipeline, whose first input is the `first` of all; known are its fits."""
        inputs = np.arange(first, first + len(trajectory.samples))
        # What the scheduler sees may have several rows for an input.
        rows = np.repeat(inputs, len(trajectory.end) // len(inputs) or 1)[: len(trajectory.end)]
        self.fold = torch.from_numpy(rows % self.folds)
        self.known = known
        self.trajectory = trajectory
        self.step = -1
        self.outputs: dict[str, torch.Tensor] = {}
        self.kept: list[list[torch.Tensor]] = []
        self.planned: dict[int, torch.Tensor] = {}

    def called(self, call: Call, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        self.step = call.step
        if call.step in self.ends or call.branch not in self.outputs:
            self.outputs[call.branch] = run()
        return self.outputs[call.branch]

    def stepping(self, scheduler: Any, given: dict[str, Any]) -> torch.Tensor:
        if self.step in self.ends:
            parts = self.mixture.parts(self.outputs, given["model_output"])
            self.kept = [parts, *self.kept][: self.order]
            self._plan(scheduler, given)
        return self.planned[self.step]

    def _plan(self, scheduler: Any, given: dict[str, Any]) -> None:
        step, end = self.step, self.ends[self.step]
        span = range(step, end)
        terms = [
            [self.mixture.shares[n][part] * tensor for n in span]
            for part in range(self.mixture.count)
            for tensor in (parts[part] for parts in self.kept)
        ]
        plain = simulate(scheduler, given, [torch.zeros_like(terms[0][0])] * len(span))
        moved = [host(simulate(scheduler, given, term) - plain) for term in terms]
        normals = self.normals.setdefault(step, [Normal(len(terms)) for _ in range(self.folds)])
        wanted = self.trajectory.latent(end) - host(plain)
        for fold, normal in enumerate(normals if not self.known else ()):
            rows = self.fold == fold
            normal.add([one[rows] for one in moved], wanted[rows])
        for n in span:
            self.planned[n] = torch.zeros_like(plain)
        for fold in range(self.folds):
            others = [n for nth, n in enumerate(normals) if nth != fold or self.folds == 1]
            rows = (self.fold == fold).to(plain.device)
            for term, weight in zip(terms, self._solved(others), strict=True):
                for n, tensor in zip(span, term, strict=True):
                    self.planned[n][rows] += float(weight) * tensor[rows]

    def _solved(self, normals: Sequence[Normal]) -> np.ndarray:
        count = self.mixture.count
        prior = np.zeros((count, normals[0].size // count))
        prior[:, 0] = 1
        return Normal.sum(normals).solve(prior.ravel())

    def weights(self) -> dict[str, list[list[list[float]]]]:
        """As `schedule` takes them."""
        found: dict[str, list[list[list[float]]]] = {}
        for step in self.ends:
            parts = self._solved(self.normals[step]).reshape(self.mixture.count, -1)
            for branch, rows in self.mixture.by_branch(parts).items():
                found.setdefault(branch, []).append(rows)
        return found
