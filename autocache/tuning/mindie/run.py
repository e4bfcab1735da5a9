"""MindIE's searches on a live pipeline: draw with every candidate and compare raw samples."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from autocache.api import patch
from autocache.errors import AutocacheError, ParameterError, nearest
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.tuning.identity import identity
from autocache.tuning.mindie.attention import AttentionSearch
from autocache.tuning.mindie.blocks import BlockSearch
from autocache.tuning.mindie.found import Found
from autocache.tuning.study import REASON, Tell, finished, search
from autocache.when import Always
from autocache.where import Where

if TYPE_CHECKING:
    import optuna

    from autocache.tuning.workload import Workload

Progress = Callable[[str, int], AbstractContextManager[Tell]]
"""From what is searched and its number of trials to what is told of each of them, as
`autocache.tuning.progress.SearchProgress` is."""

_SEARCHES = ("dit_block", "attention")
_PAUSE = 1.0
"""Seconds between looks at what other workers have not finished yet."""


class PublishedSearch:
    """One of MindIE's searches, ready to run on a workload; making it draws the reference.

    The error of a candidate is the mean over the inputs of the mean squared difference from the
    reference, of raw samples as the pipeline returns them.

    Args:
        workload: what is drawn.
        strategy: "dit_block" or "attention", the strategy whose parameters are searched.
        ratio: the speed-up to reach, by the search's own account of the cost.
        stack: for "dit_block", the path of one block stack to search in; the ratio is then of the
            work in that stack. Without it, all blocks of all stacks, counted through.
        share: for "attention", the part of the denoiser's work that is in attention, 1 to count
            attention alone as published; measured by default, by drawing the first input twice.
        **options: further fields of `BlockSearch` or `AttentionSearch`.

    Raises:
        ParameterError: there is no such search or stack, an option is out of range, or no
            candidate reaches the ratio.
        DoesNotApplyError: the model has no block stack, or no attention that could be reused.
    """

    def __init__(
        self,
        workload: Workload,
        strategy: Literal["dit_block", "attention"],
        *,
        ratio: float,
        stack: str | None = None,
        share: float | None = None,
        **options: Any,
    ) -> None:
        if strategy not in _SEARCHES:
            raise ParameterError(f"no search {strategy!r}{nearest(strategy, _SEARCHES)}")
        self.workload = workload
        self.strategy = strategy
        # What has no blocks is refused before anything is drawn.
        place = _blocks(workload, stack) if strategy == "dit_block" else None
        self.reference, self.steps = _drawn(workload)
        common = {"steps": self.steps, "ratio": ratio, **options}
        self.plan: BlockSearch | AttentionSearch
        if place is not None:
            self.plan = BlockSearch(blocks=place[0], offset=place[1], **common)
        else:
            known = attention_share(workload, self.steps) if share is None else share
            self.plan = AttentionSearch(share=known, **common)

    @property
    def generations(self) -> int:
        """The most that are drawn of each input, with the one that was."""
        return self.plan.generations

    def run(
        self,
        *,
        name: str = "mindie",
        storage: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[Found]:
        """The three candidates of least error, best first.

        Args:
            name: of the studies, one for each stage of the search, whose name is added.
            storage: where they are kept, see `autocache.tuning.storage.opened`. A search that was
                interrupted goes on there, and several workers share one. It knows the pipeline by
                its configuration and inputs: give other weights another name.
            progress: for each stage, what is told of its trials.

        Raises:
            AutocacheError: the storage has such a study of something else, cannot be opened, or
                no candidate could be drawn.
        """

        def try_all(stage: str, candidates: Sequence[dict[str, Any]]) -> list[Found]:
            if not candidates:
                return []
            told = progress(f"{self.strategy}: {stage}", len(candidates)) if progress else None
            with told or contextlib.nullcontext() as tell:
                study = self._study(f"{name} {stage}", candidates, storage, tell)
            return _found(study, candidates)

        return self.plan.run(try_all)

    def evaluate(self, parameters: Mapping[str, Any]) -> float:
        """Draw with one candidate; its error."""
        with patch(self.workload.pipe, self.strategy, **parameters):
            drawn = self.workload.run().samples
        return mean_squared_error(self.reference, drawn)

    def _study(
        self,
        name: str,
        candidates: Sequence[dict[str, Any]],
        storage: str | Path | None,
        tell: Tell | None,
    ) -> optuna.Study:
        highest = {key: max(one[key] for one in candidates) for key in candidates[0]}

        def objective(trial: optuna.Trial) -> float:
            return self.evaluate({key: trial.suggest_int(key, 0, highest[key]) for key in highest})

        while True:
            study = search(
                objective,
                name=name,
                trials=len(candidates),
                storage=storage,
                starts=candidates,
                tell=tell,
                identity=identity(
                    self.workload,
                    strategy=self.strategy,
                    plan=dataclasses.asdict(self.plan),
                    steps=self.steps,
                ),
            )
            # The best of a stage are known when other workers have done their part of it.
            if finished(study) >= len(candidates):
                return study
            time.sleep(_PAUSE)


def mean_squared_error(reference: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> float:
    """Mean over the samples of the mean squared difference, 0 and up, 0 where they are the same."""
    pairs = zip(reference, drawn, strict=True)
    return float(np.mean([np.square(one.astype(np.float64) - two).mean() for one, two in pairs]))


def attention_share(workload: Workload, steps: int) -> float:
    """Part of the denoisers' compute that `attention` spares in a step that reuses, 0 to 1.

    Counted on the first input, drawn once as it is and once with every second step reusing.

    Raises:
        DoesNotApplyError: no denoiser has attention that could be reused.
        ParameterError: there was nothing to count.
    """
    first = workload.among(0, 1)
    schedule: dict[str, Any] = {"step_start": 0, "step_interval": 2, "step_end": steps - 1}
    with patch(workload.pipe, "attention", **schedule):
        spent = first.run(pictures=False, count=True).compute or 0
    whole = first.run(pictures=False, count=True).compute or 0
    if not whole or steps < 2:
        raise ParameterError(f"share: nothing to count it by in {steps} steps; give it")
    return (1 - spent / whole) * steps / (steps // 2)


class _Nowhere(Where):
    """No place at all: the steps are recorded, and nothing is skipped."""

    needs_spec: ClassVar[bool] = False
    skips: ClassVar[bool] = False


def _drawn(workload: Workload) -> tuple[list[np.ndarray], int]:
    """The samples without a cache, and the number of steps that a generation takes."""
    with patch(workload.pipe, when=Always(), where=_Nowhere()) as plain:
        samples = workload.run().samples
        return samples, 1 + max(record.step for record in plain.stats().steps)


def _blocks(workload: Workload, stack: str | None) -> tuple[int, int]:
    """How many blocks there are to choose from, and how many of the model are before them."""
    model = workload.denoisers[0]
    bound = bind(registry.resolve(None, model), model)
    found = bound.stack(stack)
    return (bound.block_count, 0) if stack is None else (len(found.blocks), found.offset)


def _found(study: optuna.Study, candidates: Sequence[dict[str, Any]]) -> list[Found]:
    """The candidates in their order; one that failed has the largest error."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    errors = {_key(trial.params): trial.value for trial in trials if trial.value is not None}
    if not errors:
        raise AutocacheError(trials[0].user_attrs[REASON])
    return [Found(one, errors.get(_key(one), math.inf)) for one in candidates]


def _key(parameters: Mapping[str, Any]) -> tuple:
    return tuple(sorted(parameters.items()))
