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

RIDGE = 1e-6
"""Of the mean square of the terms: what an ill-posed fit leans on to stay with the latest output."""


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
) -> Fit:
    """Run the schedule over all inputs, fitting as it goes.

    `order` is how many computed outputs a sum has at most. With several calls a fit rests on all up
    to then, and the errors of the first calls are of weights that were fitted on less.
    """
    fitting = _Fitting(steps, len(trajectories[0].steps), mixture, order)
    errors: list[float] = []
    for call, trajectory in zip(workload.calls(), trajectories, strict=True):
        fitting.begin(trajectory)
        with patched(workload.pipe, when=Always(), where=Observed(fitting), how=Reuse()):
            samples = workload.draw(call, pictures=False)
        pairs = zip(samples, trajectory.samples, strict=True)
        errors += [float(np.mean((one - whole) ** 2)) for one, whole in pairs]
    return Fit(fitting.weights(), errors)


class _Fitting:
    """The observer that computes the chosen steps only, and gives the scheduler what is fitted."""

    def __init__(self, steps: Sequence[int], total: int, mixture: Mixture, order: int) -> None:
        self.mixture = mixture
        self.order = order
        self.total = total
        self.ends = dict(zip(steps, [*steps[1:], total], strict=True))
        self.normals: dict[int, Normal] = {}
        self.fitted: dict[int, np.ndarray] = {}

    def begin(self, trajectory: Trajectory) -> None:
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
        normal = self.normals.setdefault(step, Normal(len(terms)))
        normal.add(moved, self.trajectory.latent(end) - host(plain))
        prior = np.zeros((self.mixture.count, len(self.kept)))
        prior[:, 0] = 1
        weights = self.fitted[step] = normal.solve(prior.ravel())
        for nth, n in enumerate(span):
            pairs = zip(terms, weights, strict=True)
            self.planned[n] = sum((float(w) * term[nth] for term, w in pairs), start=plain * 0)

    def weights(self) -> dict[str, list[list[list[float]]]]:
        """As `schedule` takes them."""
        found: dict[str, list[list[list[float]]]] = {}
        for step in range(self.total):
            computed = max(one for one in self.ends if one <= step)
            parts = self.fitted[computed].reshape(self.mixture.count, -1)
            for branch, rows in self.mixture.by_branch(parts).items():
                found.setdefault(branch, []).append(rows)
        return found
