"""A tuning that was killed goes on, and two on one storage do the work together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from tuning.tune_worker import CALL, pipeline, tuned

import autocache
from autocache.tuning import tuner
from autocache.tuning.storage import opened
from autocache.tuning.timing import Timing
from autocache.tuning.trajectory import record
from autocache.tuning.workload import Workload

WORKER = Path(__file__).with_name("tune_worker.py")
NAME = "schedule of 3 of 6 steps"


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@contextmanager
def worker(storage: Path, stop_at: int, profile: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(WORKER), str(storage), str(stop_at), str(profile)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until_waiting(process: subprocess.Popen[str]) -> int:
    """How many trials it has run by then."""
    assert process.stdout is not None
    for count, line in enumerate(process.stdout):
        if line == "waiting\n":
            return count
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def trials(storage: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=NAME, storage=opened(storage))
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def test_a_killed_tuning_goes_on(pipe, tmp_path, monkeypatch):
    """Finished trials stay as they were, only the rest is run, and the plain pipeline is not
    recorded again."""
    storage = tmp_path / "study.db"
    with worker(storage, 5, tmp_path / "x.yaml") as killed:
        assert until_waiting(killed) == 5
        killed.kill()
        killed.wait()
    before = {trial.number: trial.value for trial in trials(storage)}
    assert len(before) == 5
    recorded = {file: file.stat().st_mtime_ns for file in Path(f"{storage}.recorded").iterdir()}
    assert recorded
    calls, spent, ran = [], [], []

    def watched(*args, **options):
        calls.clear()
        found = record(*args, **options)
        spent.append(len(calls))
        return found

    monkeypatch.setattr(tuner, "record", watched)
    handle = pipe.transformer.proj_out.register_forward_hook(lambda *_: calls.append(1))
    found = tuned(pipe, str(storage), lambda study, trial: ran.append(trial.number))
    handle.remove()
    assert spent == [0]
    assert not set(ran) & set(before)
    after = {trial.number: trial.value for trial in trials(storage)}
    assert before.items() <= after.items()
    assert len(after) == len(before) + len(ran)
    assert {file: file.stat().st_mtime_ns for file in recorded} == recorded
    assert found.measured is not None


def test_two_workers_share_the_trials(pipe, tmp_path):
    """Together they run as many as one would, give or take the one that each may have begun, and
    nothing twice."""
    storage = tmp_path / "study.log"
    files = [tmp_path / "one.yaml", tmp_path / "other.yaml"]
    with worker(storage, 2, files[0]) as one, worker(storage, 2, files[1]) as other:
        for process in (one, other):
            assert until_waiting(process) == 2
        ends = [process.communicate("go\n") for process in (one, other)]
        for process, (_, errors) in zip((one, other), ends, strict=True):
            assert process.returncode == 0, errors
    ran = sum(out.count("ran ") for out, _ in ends) + 4
    done = trials(storage)
    assert len(done) == ran
    alone: list[int] = []
    tuned(pipe, str(storage), lambda study, trial: alone.append(trial.number))
    assert alone == []
    assert all(autocache.Profile.read(file).measured for file in files)


def test_what_was_timed_is_remembered(pipe, tmp_path):
    """A tuning for a time goes on after the speed-up it began with, whatever the clock says now."""
    workload = Workload(pipe, ["a red circle"], call=CALL)
    first = Timing.of(workload, tmp_path / "s.db")
    calls = []
    handle = pipe.transformer.proj_out.register_forward_hook(lambda *_: calls.append(1))
    assert Timing.of(workload, tmp_path / "s.db") == first
    handle.remove()
    assert calls == []
    assert 0 < first.share < 1
