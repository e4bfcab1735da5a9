"""Which trials of a shared study are still at work, and which a killed process left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

logger = logging.getLogger("autocache")

WORKER = "worker"
BEAT = 30.0
"""Seconds between a worker's signs of life."""
SILENCE = 300.0
"""Seconds without one after which another machine's trial no longer counts."""


@contextlib.contextmanager
def present(trial: Trial) -> Iterator[None]:
    """Say who runs a trial, and that it is still running, for as long as it does."""
    worker = {**_here(), "began": psutil.Process().create_time()}
    trial.set_user_attr(WORKER, {**worker, "alive": time.time()})
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(trial, worker, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()


def at_work(trial: FrozenTrial) -> bool:
    """Whether an unfinished trial is being run by some worker, as far as can be told."""
    alive = trial.user_attrs.get(WORKER, {}).get("alive")
    if alive is None and trial.datetime_start is not None:
        alive = trial.datetime_start.timestamp()
    return not abandoned(trial) and alive is not None and time.time() - alive < SILENCE


def abandoned(trial: FrozenTrial) -> bool:
    """Whether a trial's process, of this machine, has certainly ended."""
    worker = trial.user_attrs.get(WORKER)
    if worker is None or worker["place"] != _here()["place"]:
        return False
    try:
        # The system gives numbers of processes out again.
        return abs(psutil.Process(worker["process"]).create_time() - worker["began"]) > 1
    except psutil.NoSuchProcess:
        return True


def _here() -> dict[str, Any]:
    """This process, and the place whose processes it can see."""
    place = platform.node()
    with contextlib.suppress(OSError):  # Containers may share a machine's name.
        place += " " + os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return {"place": place, "process": os.getpid()}


def _beat(trial: Trial, worker: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(BEAT):
        try:
            trial.set_user_attr(WORKER, {**worker, "alive": time.time()})
        except Exception as error:
            logger.debug("trial %d could not say that it runs: %s", trial.number, str(error))
