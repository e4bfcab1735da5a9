"""Searches that are interrupted, resumed and shared lose nothing and repeat nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.study import finished, search

WORKER = Path(__file__).with_name("search_worker.py")
STARTS = ({"x": 0.25}, {"x": 0.5}, {"x": 0.75})


def parabola(trial: optuna.Trial) -> float:
    return (trial.suggest_float("x", 0, 1) - 0.3) ** 2


@pytest.fixture(params=["study.db", "study.log"])
def storage(request, tmp_path) -> str:
    return str(tmp_path / request.param)


@pytest.fixture
def journal(tmp_path) -> str:
    return str(tmp_path / "study.log")


@contextmanager
def worker(storage: str, trials: int, stop_at: int) -> Iterator[subprocess.Popen[str]]:
    """A worker that has come to the trial it waits in."""
    command = [sys.executable, str(WORKER), storage, str(trials), str(stop_at)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until_waiting(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line == "waiting\n":
            return lines
        lines.append(line)
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def counted(study: optuna.Study) -> list[float]:
    return [trial.params["x"] for trial in study.trials if trial.state.name == "COMPLETE"]


def test_a_killed_search_continues(storage):
    """What was finished stays, what was running is tried again, and only the rest is run."""
    with worker(storage, 8, stop_at=2) as killed:
        until_waiting(killed)
        killed.kill()
        killed.wait()
    ran = Counter[float]()

    def objective(trial: optuna.Trial) -> float:
        value = parabola(trial)
        ran[trial.params["x"]] += 1
        return value

    study = search(objective, name="parabola", trials=8, storage=storage, starts=STARTS)
    assert finished(study) == len(counted(study)) == 8
    assert ran.total() == 7
    assert {0.5, 0.75} <= set(ran)
    assert 0.25 not in ran
    assert max(Counter(counted(study)).values()) == 1
    again = search(objective, name="parabola", trials=8, storage=storage, starts=STARTS)
    assert ran.total() == 7
    assert len(again.trials) == len(study.trials)


def test_two_workers_share_the_trials(storage):
    """Two processes at once do the asked number together, and nothing twice."""
    with worker(storage, 12, stop_at=2) as one, worker(storage, 12, stop_at=2) as other:
        ran = [until_waiting(one), until_waiting(other)]
        rest = [process.communicate("go\n") for process in (one, other)]
        for process, (_, errors) in zip((one, other), rest, strict=True):
            assert process.returncode == 0, errors
    study = search(parabola, name="parabola", trials=12, storage=storage, starts=STARTS)
    assert 12 <= finished(study) <= 13
    tried = Counter(counted(study))
    assert max(tried.values()) == 1
    assert {0.25, 0.5, 0.75} <= set(tried)
    assert [len(lines) for lines in ran] == [2, 2]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_trial_is_run_again(journal, interruption):
    """The interruption comes through, does not count, and its start is not lost."""

    def objective(trial: optuna.Trial) -> float:
        value = parabola(trial)
        if trial.number == 1:
            raise interruption
        return value

    def run(objective: Callable[[optuna.Trial], float]) -> optuna.Study:
        return search(objective, name="s", trials=6, storage=journal, starts=STARTS)

    with pytest.raises(interruption):
        run(objective)
    study = run(parabola)
    assert Counter(counted(study)).keys() >= {0.25, 0.5, 0.75}
    assert len(counted(study)) == len(set(counted(study))) == 6
    assert len(study.trials) == 7


def test_a_resumed_search_draws_what_it_would_have(journal):
    """With and without a break the same values are tried in the same order."""
    whole = search(parabola, name="whole", trials=14, seed=3)
    search(parabola, name="s", trials=5, storage=journal, seed=3)
    study = search(parabola, name="s", trials=14, storage=journal, seed=3)
    assert counted(study) == counted(whole)
    assert counted(search(parabola, name="s", trials=14, seed=4)) != counted(whole)


def test_a_journal_broken_off_in_mid_line_is_read_on(journal):
    """A worker killed while it was writing costs the others no more than that line."""
    search(parabola, name="s", trials=3, storage=journal)
    with Path(journal).open("ab") as written:
        written.write(b'{"op_code":8,"worker_id":"killed","trial')
    for trials in (4, 5):
        assert finished(search(parabola, name="s", trials=trials, storage=journal)) == trials


def test_starts_come_first_and_new_ones_next():
    """Starts are tried in their order; a later run adds those that it has beside them."""
    study = search(parabola, name="s", trials=5, starts=STARTS)
    assert counted(study)[:3] == [0.25, 0.5, 0.75]


def test_new_starts_of_a_later_run_are_tried(journal):
    """A start that an earlier run did not have is the next to be tried, and those before are not
    tried again."""
    search(parabola, name="s", trials=4, storage=journal, starts=STARTS)
    study = search(parabola, name="s", trials=6, storage=journal, starts=[*STARTS, {"x": 0.9}])
    assert counted(study)[4] == 0.9
    assert len(set(counted(study))) == 6


def test_constraints_rule_out_what_breaks_them():
    """The best trial keeps to the constraints, and a search moves to where they hold."""

    def run(constraints: Callable | None) -> optuna.Study:
        start = [{"x": 0.3}]
        return search(parabola, name="s", trials=30, starts=start, constraints=constraints)

    free = run(None)
    study = run(lambda trial: {"at least half": 0.5 - trial.params["x"]})
    assert free.best_value == study.trials[0].value == 0
    assert study.best_params["x"] >= 0.5
    held = [sum(x >= 0.5 for x in counted(one)[12:]) for one in (study, free)]
    assert held[0] > 2 * held[1]


def test_a_combination_that_does_not_apply_fails_with_its_reason():
    """The reason is recorded, the trial counts, and the search goes on."""
    told = []

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 1:
            raise ParameterError("the range is empty")
        return float("nan") if trial.number == 2 else parabola(trial)

    study = search(objective, name="s", trials=4, tell=lambda _, trial: told.append(trial.number))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "the range is empty"
    assert "not a number" in study.trials[2].user_attrs["reason"]
    assert told == [0, 1, 2, 3]


def test_several_directions_keep_what_none_beats():
    """With two values for each trial the study has a front."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        return x, x

    study = search(objective, name="s", trials=8, directions=("minimize", "maximize"))
    assert len(study.best_trials) == 8


def test_a_wrong_number_of_values_is_an_error():
    """One value where two are searched does not go on for ever."""
    with pytest.raises(ValueError, match="number of the values"):
        search(parabola, name="s", trials=3, directions=("minimize", "minimize"))


def test_a_study_of_something_else_is_refused(journal):
    """The message names the storage and what differs, and nothing is run."""
    made = {"steps": 28, "prompts": ["a red circle"], "model": "Flux"}
    search(parabola, name="s", trials=2, storage=journal, identity=made)
    with pytest.raises(AutocacheError, match="steps was 28 and is 50") as refused:
        search(parabola, name="s", trials=9, storage=journal, identity={**made, "steps": 50})
    assert journal in str(refused.value)
    assert "prompts" not in str(refused.value)
    with pytest.raises(AutocacheError, match="directions"):
        search(parabola, name="s", trials=9, storage=journal, directions=("maximize",))
    study = search(parabola, name="s", trials=3, storage=journal, identity=made)
    assert finished(study) == 3
    other = search(parabola, name="other", trials=1, storage=journal, identity={"steps": 50})
    assert finished(other) == 1


@pytest.mark.parametrize("given", [{"trials": 0}, {"directions": ("down",)}, {"directions": ()}])
def test_senseless_searches_are_refused(given):
    """No trials, or no known direction."""
    with pytest.raises(ParameterError, match="at least one trial"):
        search(parabola, name="s", **{"trials": 3, **given})


def test_optuna_is_quiet(journal, capfd):
    """Nothing of Optuna's own log comes through, and its level is as it was."""
    before = optuna.logging.get_verbosity()
    search(parabola, name="s", trials=3, storage=journal)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_without_optuna_the_extra_is_named(monkeypatch):
    """Who has not installed it is told how."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(AutocacheError, match=r"pip install 'autocache\[tune\]'"):
        search(parabola, name="s", trials=1)
