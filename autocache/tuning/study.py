"""A search that can be interrupted and shared: trials of an Optuna study, run up to a number.

What is searched is the caller's; see `autocache.tuning.space` for what strategies offer. Every
finished trial is in the storage at once. A search that is run again on the same storage runs what
is missing, and so does one that runs beside it, in another process or on another machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.storage import opened, require_optuna, shown

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Objective = Callable[["optuna.Trial"], "float | tuple[float, ...]"]
Constraints = Callable[["optuna.Trial"], Mapping[str, float]]
Tell = Callable[["optuna.Study", "FrozenTrial"], None]

IDENTITY, STARTS = "identity", "starts"
"""Attributes of a study."""
REASON = "reason"
"""Attribute of a trial that failed: why."""


def search(
    objective: Objective,
    *,
    name: str,
    trials: int,
    storage: str | Path | None = None,
    starts: Sequence[Mapping[str, Any]] = (),
    directions: Sequence[str] = ("minimize",),
    seed: int = 0,
    tell: Tell | None = None,
    constraints: Constraints | None = None,
    identity: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Run the trials that are missing to `trials`, and return the study with all of them.

    A trial whose objective raises AutocacheError has failed, with the reason in its user attribute
    "reason", and counts. One that was interrupted, killed, or raised anything else does not.
    Workers that share a study may run one trial more each.

    Args:
        objective: from a trial to its value, or to one value for each direction.
        name: of the study in its storage.
        trials: in all, those of earlier runs and of other workers among them.
        storage: None, a file or a URL; see `autocache.tuning.storage.opened`.
        starts: parameters of the first trials, each of which is tried once.
        directions: "minimize" or "maximize", for each value.
        seed: of what is drawn; trial n draws the same whoever runs it.
        tell: called after every trial of this worker, with the study and the trial.
        constraints: called after the objective, with the trial: what must not be above 0, by name.
        identity: what is searched, as plain values; another one has another study.

    Raises:
        AutocacheError: Optuna is not installed, the storage cannot be opened, or the study of that
            name was made for something else.
        ParameterError: `trials` is below 1, or a direction is neither of the two.
    """
    library = require_optuna()
    if trials < 1 or not directions or not set(directions) <= {"minimize", "maximize"}:
        raise ParameterError(
            f"trials={trials}, directions={tuple(directions)}: expected at least one trial, and "
            "'minimize' or 'maximize' for each value"
        )
    with _quiet(library):
        study = library.create_study(
            storage=opened(storage), study_name=name, directions=directions, load_if_exists=True
        )
        asked = {**(identity or {}), "directions": list(directions)}
        _agree(study, asked, shown(storage))
        _give_starts(study, starts, seed)
        while _taken_care_of(study) < trials:
            ended = _run(study, objective, constraints)
            if tell is not None:
                tell(study, ended)
    return study


def finished(study: optuna.Study) -> int:
    """How many trials count: those with a value, and those that failed for a reason."""
    return sum(_counts(trial) for trial in study.get_trials(deepcopy=False))


def _counts(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and (
        trial.state.name in ("COMPLETE", "PRUNED") or REASON in trial.user_attrs
    )


def _taken_care_of(study: optuna.Study) -> int:
    """How many trials count, or will once another worker is through."""
    from autocache.tuning.presence import abandoned, at_work

    running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
    for trial in filter(abandoned, running):
        _give_up(study, trial)
    return finished(study) + sum(map(at_work, running))


def _run(study: optuna.Study, objective: Objective, constraints: Constraints | None) -> FrozenTrial:
    from optuna import TrialPruned
    from optuna.trial import TrialState

    from autocache.tuning.presence import present

    trial = study.ask()
    try:
        with present(trial):
            value = objective(trial)
            values = value if isinstance(value, tuple) else (value,)
            if any(math.isnan(one) for one in values):
                raise AutocacheError("its value is not a number")
            for key, excess in (constraints(trial) if constraints else {}).items():
                trial.set_constraint(key, excess)
        return study.tell(trial, values, state=TrialState.COMPLETE)
    except TrialPruned:
        return study.tell(trial, state=TrialState.PRUNED)
    except AutocacheError as error:
        trial.set_user_attr(REASON, str(error))
        return study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        _give_up(study, study.get_trials(deepcopy=False)[trial.number])
        raise


def _give_up(study: optuna.Study, trial: FrozenTrial) -> None:
    """End a trial that nobody finishes; its start is for another one to try."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    from autocache.tuning.sampler import Sampler

    assert isinstance(study.sampler, Sampler)
    start = study.sampler.start(study, trial)
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return  # Another worker was faster, and has seen to the start.
    if start:
        study.enqueue_trial(dict(start))


def _give_starts(study: optuna.Study, starts: Sequence[Mapping[str, Any]], seed: int) -> None:
    """Have the first trials take the starts; those that are new in a later run come next."""
    from autocache.tuning.sampler import Sampler

    given = [dict(start) for start in starts]
    if STARTS not in study.user_attrs:
        study.set_user_attr(STARTS, given)
    first = study.user_attrs[STARTS]
    study.sampler = Sampler(first, seed)
    for start in given:
        if start not in first:
            study.enqueue_trial(start, skip_if_exists=True)


def _agree(study: optuna.Study, identity: Mapping[str, Any], where: str) -> None:
    """Raises AutocacheError when the study was made for something else."""
    asked = json.loads(json.dumps(identity))
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, asked)
    made = study.user_attrs[IDENTITY]
    differs = [
        f"{key} was {_brief(made.get(key))} and is {_brief(asked.get(key))}"
        for key in dict.fromkeys([*made, *asked])
        if made.get(key) != asked.get(key)
    ]
    if differs:
        raise AutocacheError(
            f"the study {study.study_name!r} in {where} searches something else: "
            f"{'; '.join(differs)}. Name another study or storage, or ask for the same"
        )


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep Optuna's own log to errors, unless that of autocache is at debug."""
    before = library.logging.get_verbosity()
    debug = logging.getLogger("autocache").isEnabledFor(logging.DEBUG)
    library.logging.set_verbosity(before if debug else library.logging.ERROR)
    try:
        yield
    finally:
        library.logging.set_verbosity(before)
