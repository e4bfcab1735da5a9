"""The search for a schedule: how many outputs a sum has, and where to compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autocache.errors import AutocacheError
from autocache.tuning.candidate import summary
from autocache.tuning.fit import Fit, fit
from autocache.tuning.mixture import Mixture, mixture
from autocache.tuning.placement import Placement
from autocache.tuning.study import search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from autocache.tuning.trajectory import Trajectory
    from autocache.tuning.workload import Workload

KNOTS = 4
RANGE = 1.5
"""Exponents of ten that a stretch's cost is weighed by, at most."""
FOLDS = 4
"""A schedule is scored on inputs that its weights were not fitted to."""
ORDERS = (1, 4)
FOUND = "schedule"
"""Attribute of a trial: what it came to."""
STARTS: tuple[Mapping[str, Any], ...] = tuple(
    {
        **{f"emphasis_{knot}": slope * (knot / (KNOTS - 1) - 0.5) for knot in range(KNOTS)},
        "order": order,
        "moved": 1,
        "by": 0,
    }
    for slope, order in ((0.0, 3), (-0.5, 3), (0.5, 3), (0.0, 2), (0.0, 4), (1.0, 3), (-1.0, 3))
)


@dataclass(frozen=True)
class Schedule:
    """Computed steps and their weights, as the strategy `schedule` takes them."""

    steps: tuple[int, ...]
    total: int
    weights: dict[str, list[list[list[float]]]]
    score: float
    """Mean of the mean and the 10th percentile of the inputs' PSNR, in latents."""

    @property
    def parameters(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "total": self.total, "weights": self.weights}


class Schedules:
    """Schedules of one pipeline on one set of inputs, fitted and scored."""

    def __init__(self, workload: Workload, trajectories: Sequence[Trajectory]) -> None:
        self.workload = workload
        self.trajectories = trajectories
        self.total = len(trajectories[0].steps)
        self.mixture: Mixture = mixture(trajectories)
        self.placement = Placement(trajectories, self.mixture)
        samples = [sample for trajectory in trajectories for sample in trajectory.samples]
        self._spans = [float(np.ptp(sample)) for sample in samples]
        self._made: dict[tuple[tuple[int, ...], int], Schedule] = {}

    def schedule(self, steps: tuple[int, ...], order: int) -> Schedule:
        """Fit the weights for these steps, which runs the pipeline once."""
        key = steps, order
        if key not in self._made:
            found = fit(self.workload, self.trajectories, steps, self.mixture, order, FOLDS)
            score = self._score(found)
            self._made[key] = Schedule(steps, self.total, found.weights, score)
        return self._made[key]

    def _score(self, found: Fit) -> float:
        pairs = zip(found.errors, self._spans, strict=True)
        decibels = [10 * np.log10(span**2 / max(error, 1e-30)) for error, span in pairs]
        return sum(summary(decibels)) / 2

    def search(
        self,
        count: int,
        *,
        trials: int,
        storage: str | Path | None = None,
        seed: int = 0,
        tell: Callable[[optuna.Study, FrozenTrial], None] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> list[Schedule]:
        """The best schedules with `count` computed steps, best first, of so many trials."""

        def objective(trial: optuna.Trial) -> float:
            emphasis = [
                trial.suggest_float(f"emphasis_{knot}", -RANGE, RANGE) for knot in range(KNOTS)
            ]
            order = trial.suggest_int("order", *ORDERS)
            moved = trial.suggest_int("moved", 1, max(1, count - 1))
            by = trial.suggest_int("by", -1, 1)
            steps = shifted(self.placement.best(count, emphasis), moved, by, self.total)
            made = self.schedule(steps, order)
            trial.set_user_attr(FOUND, json.dumps([made.steps, made.weights]))
            return made.score

        study = search(
            objective,
            name=f"schedule of {count} of {self.total} steps",
            trials=trials,
            storage=storage,
            starts=STARTS,
            directions=["maximize"],
            seed=seed,
            tell=tell,
            identity={**(identity or {}), "computed": count},
        )
        return self._found(study)

    def _found(self, study: optuna.Study) -> list[Schedule]:
        done = [trial for trial in study.get_trials(deepcopy=False) if FOUND in trial.user_attrs]
        if not done:
            reasons = {str(t.user_attrs.get("reason")) for t in study.get_trials(deepcopy=False)}
            raise AutocacheError(f"no schedule could be fitted: {'; '.join(sorted(reasons))}")
        done.sort(key=lambda trial: -(trial.value or 0.0))
        made: dict[tuple[int, ...], Schedule] = {}
        for trial in done:
            steps, weights = json.loads(trial.user_attrs[FOUND])
            one = Schedule(tuple(steps), self.total, weights, trial.value or 0.0)
            made.setdefault(one.steps, one)
        return list(made.values())


def shifted(steps: tuple[int, ...], nth: int, by: int, total: int) -> tuple[int, ...]:
    """The steps with one of them moved, where there is room for it."""
    if nth >= len(steps):
        return steps
    place = steps[nth] + by
    if place in steps or not 0 < place < total:
        return steps
    return tuple(sorted((*steps[:nth], place, *steps[nth + 1 :])))
