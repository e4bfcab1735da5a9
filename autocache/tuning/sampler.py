"""What the next trial tries: first the given starts, then what Optuna's TPE makes of the results.

Both follow from the trial's number, which every storage gives out once. So workers that share a
study never try the same start and never draw the same random numbers, and a search that was
interrupted goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, TPESampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

ENQUEUED = "fixed_params"
"""Where Optuna keeps the parameters that a trial was enqueued with."""


class Sampler(BaseSampler):
    """The starts in their order, one for each trial that was not enqueued with its parameters."""

    def __init__(self, starts: Sequence[Mapping[str, Any]], seed: int) -> None:
        self._starts = starts
        self._seed = seed
        self._number = -1
        self._drawing = TPESampler()

    def start(self, study: Study, trial: FrozenTrial) -> Mapping[str, Any]:
        """The parameters that a trial was given to begin with; empty where it draws its own."""
        if ENQUEUED in trial.system_attrs:
            return trial.system_attrs[ENQUEUED]
        before = study.get_trials(deepcopy=False)[: trial.number]
        nth = sum(ENQUEUED not in other.system_attrs for other in before)
        return self._starts[nth] if nth < len(self._starts) else {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self.start(study, trial):
            return {}
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        start = self.start(study, trial)
        if param_name in start:
            return start[param_name]
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            seed = np.random.SeedSequence((self._seed, trial.number)).generate_state(1)
            self._drawing = TPESampler(seed=int(seed[0]))
            self._number = trial.number
        return self._drawing
