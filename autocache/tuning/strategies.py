"""A search over strategies and their parameters, each candidate run for real and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autocache.api import patched
from autocache.errors import AutocacheError
from autocache.quiet import quiet
from autocache.tuning.applicable import applicable
from autocache.tuning.candidate import Candidate, summary
from autocache.tuning.identity import identity
from autocache.tuning.reference import Reference
from autocache.tuning.space import start, suggest, suggest_strategy
from autocache.tuning.study import Tell, search
from autocache.tuning.unpatched import unpatched

if TYPE_CHECKING:
    import optuna

    from autocache.tuning.workload import Workload

STUDY = "strategies"
"""Name of the study, if no other is given."""
CANDIDATE = "candidate"
"""Attribute of a trial: what was tried and measured."""


def search_strategies(
    workload: Workload,
    names: Sequence[str],
    *,
    trials: int,
    speedup: float | None = None,
    min_psnr: float | None = None,
    storage: str | Path | None = None,
    seed: int = 0,
    tell: Tell | None = None,
    reference: Reference | None = None,
    starts: Sequence[tuple[str, Mapping[str, Any]]] = (),
    name: str = STUDY,
) -> list[Candidate]:
    """Try strategies with all kinds of parameters; those that no other beats, cheapest first.

    Each trial draws every input of the workload once, and so does the reference. The first trials
    are the strategies as they are by default, or near the speed-up asked for. The pipeline is left
    as it was, patched or not.

    Args:
        workload: what is drawn.
        names: of the strategies; one that does not apply to the pipeline is left out, and the log
            says why.
        trials: in all, those of earlier runs and of other workers on the storage among them.
        speedup: look for the highest score where at most 1 / speedup of the compute is left.
        min_psnr: look for the least compute where the mean PSNR is at least so many dB. With
            neither or both, look for both.
        storage: None, a file or a URL; see `autocache.tuning.storage.opened`.
        seed: of what is drawn of the parameters.
        tell: called after every trial, see `autocache.tuning.study.search`.
        reference: the run without a cache, where it is there already.
        starts: strategies with some of their parameters, to try after the defaults.
        name: of the study in its storage.

    Returns:
        The candidates that none beats in both compute and score, whether or not they keep to what
        was asked.

    Raises:
        UnknownStrategyError: there is no strategy of such a name.
        DoesNotApplyError: none of them applies to the pipeline.
        AutocacheError: no candidate could be run, or one of the reasons `search` has.
    """
    with unpatched(workload.pipe):
        spaces = applicable(workload.pipe, names)
        plain = reference or Reference.of(workload)
        size = {"blocks": plain.blocks, "steps": plain.steps}

        aims = _aims(speedup, min_psnr)

        def objective(trial: optuna.Trial) -> tuple[float, ...]:
            strategy = suggest_strategy(trial, list(spaces))
            parameters = suggest(trial, strategy, tunable=spaces[strategy], **size)
            found = _known(trial) or measured(workload, plain, strategy, parameters)
            trial.set_user_attr(CANDIDATE, _written(found))
            return tuple(getattr(found, figure) for figure in aims)

        study = search(
            objective,
            name=name,
            trials=trials,
            storage=storage,
            starts=[
                start(strategy, parameters, speedup=speedup, **size)
                for strategy, parameters in [*((one, {}) for one in spaces), *starts]
                if strategy in spaces
            ],
            directions=list(aims.values()),
            seed=seed,
            tell=tell,
            constraints=lambda trial: excess(_read(trial.user_attrs), speedup, min_psnr),
            identity=identity(
                workload,
                strategies={one: list(space) for one, space in spaces.items()},
                steps=plain.steps,
                asked=[speedup, min_psnr],
            ),
        )
    if found := candidates(study):
        return front(found)
    reasons = sorted({str(trial.user_attrs.get("reason")) for trial in study.trials})
    raise AutocacheError(f"no candidate could be run: {'; '.join(reasons)}")


def measured(
    workload: Workload,
    plain: Reference,
    strategy: str,
    parameters: Mapping[str, Any],
    beside: Sequence[str] = (),
) -> Candidate:
    """Run a strategy, and lossless ones beside it, and hold it against the run without a cache.

    Raises:
        AutocacheError: it cannot be run with these parameters, or what it draws are no numbers.
    """
    choice = [*((name, {}) for name in beside), (strategy, parameters)]
    with quiet(), patched(workload.pipe, choice):
        drawn = workload.run(count=True)
    if not all(np.isfinite(sample).all() for sample in drawn.samples):
        raise AutocacheError(f"{strategy} draws what are no numbers")
    mean, p10 = summary(plain.psnr(drawn.samples))
    return Candidate(
        strategy, dict(parameters), (drawn.compute or 0) / plain.compute, mean, p10, beside
    )


def candidates(study: optuna.Study) -> list[Candidate]:
    """Every candidate of a study that could be run, in the order of the trials."""
    trials = study.get_trials(deepcopy=False)
    return [_read(trial.user_attrs) for trial in trials if trial.state.name == "COMPLETE"]


def front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats: less compute has a lower score. Cheapest first."""
    kept: list[Candidate] = []
    for one in sorted(found, key=lambda one: (one.compute, -one.score)):
        if not kept or one.score > kept[-1].score:
            kept.append(one)
    return kept


def excess(one: Candidate, speedup: float | None, min_psnr: float | None) -> dict[str, float]:
    """How far a candidate is beyond what was asked; 0 and below keeps to it."""
    asked = {}
    if speedup is not None:
        asked["compute"] = one.compute - 1 / speedup
    if min_psnr is not None:
        asked["psnr"] = min_psnr - one.psnr
    return asked


def best(
    found: Sequence[Candidate], *, speedup: float | None = None, min_psnr: float | None = None
) -> Candidate | None:
    """The one to take, of those that keep to what was asked: with `min_psnr` the cheapest, else the
    one of the highest score; None where there is none."""
    kept = [one for one in found if max(excess(one, speedup, min_psnr).values(), default=0) <= 0]
    if min_psnr is not None:
        return min(kept, key=lambda one: (one.compute, -one.score), default=None)
    return max(kept, key=lambda one: (one.score, -one.compute), default=None)


def best_in_words(
    *, speedup: float | None = None, min_psnr: float | None = None
) -> Callable[[optuna.Study], str]:
    """For `SearchProgress`: from a study to its best in a few words."""

    def told(study: optuna.Study) -> str:
        one = best(candidates(study), speedup=speedup, min_psnr=min_psnr)
        if one is None:
            return "none is good enough yet"
        return f"best {one.strategy} {1 / max(one.compute, 1e-9):.2f}x {one.psnr:.1f} dB"

    return told


def _aims(speedup: float | None, min_psnr: float | None) -> dict[str, str]:
    """What is to be as high or as low as possible; what has a limit already is not."""
    aims = {"compute": "minimize", "score": "maximize"}
    if (speedup is None) != (min_psnr is None):
        del aims["score" if speedup is None else "compute"]
    return aims


def _known(trial: optuna.Trial) -> Candidate | None:
    """What another trial has measured of the very same parameters."""
    for other in trial.study.get_trials(deepcopy=False):
        if other.state.name == "COMPLETE" and other.params == trial.params:
            return _read(other.user_attrs)
    return None


def _written(one: Candidate) -> dict[str, Any]:
    return dict(one.__dict__)


def _read(attributes: Mapping[str, Any]) -> Candidate:
    return Candidate(**attributes[CANDIDATE])
