"""tune: the best way to run a model at a speed, or at a quality, found by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocache.errors import ParameterError
from autocache.tuning.goal import Goal
from autocache.tuning.told import Progress, shown
from autocache.tuning.tuner import SCHEDULE, Tuning
from autocache.tuning.unpatched import unpatched
from autocache.tuning.workload import Workload

if TYPE_CHECKING:
    from autocache.tuning.profile import Profile
    from autocache.tuning.workload import Input

OTHER_NOISE = 100_000
"""Added to the seeds of what is held out."""
ENOUGH = 6
"""Inputs from which on some of them are held out; of fewer, all are, from other noise."""


def tune(
    pipe: Any,
    inputs: Sequence[Input],
    *,
    speedup: float | None = None,
    min_psnr: float | None = None,
    time: float | None = None,
    strategies: Sequence[str] = (SCHEDULE,),
    search: Literal["dit_block", "attention"] | None = None,
    budget: int | None = None,
    call: Mapping[str, Any] | None = None,
    held_out: Sequence[Input] | None = None,
    seed: int = 0,
    batch: int = 8,
    storage: str | Path | None = None,
    progress: bool | Progress | None = None,
    **options: Any,
) -> Profile:
    """Find the best way to run a pipeline within a compute, or at a quality.

    The plain pipeline is recorded once. Where to compute is then searched, each candidate run for
    real on the inputs; the best is measured on inputs and noise that nothing was chosen by, and
    that error is in the profile. What it will cost is logged before it begins. Where the pipeline's
    steps cannot be followed, as with several denoisers, the log says so and the other strategies
    named are searched, or else the parameters of `auto`.

    Args:
        pipe: a diffusers pipeline; it is left as it was, patched or not.
        inputs: prompts, or for each call of the pipeline the mapping of its arguments. A dozen and
            more; they should be like those to come.
        speedup: find the best that leaves at most 1 / speedup of the denoisers' compute.
        min_psnr: find the cheapest whose mean PSNR against the plain run is at least so many dB.
        time: find the best that takes so many seconds for each input.
        strategies: what to try: "schedule", which places steps and fits weights, and any strategy
            of `autocache.strategies()`, with the parameters it says may be searched.
        search: one of MindIE's published searches instead.
        budget: full generations to spend, all in all; by default what 32 trials take.
        call: arguments that go with every call, such as height or num_inference_steps.
        held_out: inputs for the final measurement; by default a third of the inputs, and of fewer
            than six the same ones. Their noise is another in any case.
        seed: of the first input's noise, and of the search.
        batch: prompts drawn in one call.
        storage: where the search is kept: a file or a database's URL, see
            `autocache.tuning.storage.opened`. A tuning that was interrupted goes on there, and
            workers on several machines share it. Beside a file, recordings of the plain runs are
            in the directory FILE.recorded. None keeps it in memory.
        progress: True for bars on standard error, with what it will cost before the first; or what
            makes something of the kind, see `autocache.tuning.told.Progress`. None draws nothing.
        **options: of the published search.

    Returns:
        A profile, which `autocache.patch` takes, and which `write` puts into a file.

    Raises:
        ParameterError: not just one of `speedup`, `min_psnr` and `time` is given, or one is out of
            range or cannot be reached.
        DoesNotApplyError: none of the strategies applies to the pipeline.
        AutocacheError: Optuna is not installed, or the storage is of another search.
    """
    goal = Goal(speedup, min_psnr, time)
    searched, kept = split(pipe, inputs, held_out, call=dict(call or {}), seed=seed, batch=batch)
    drawn, announce = shown(progress)
    tuning = Tuning(searched, kept, goal, budget, storage, seed, drawn, announce)
    with unpatched(pipe):
        if search is not None:
            return tuning.published(search, **options)
        if options:
            raise ParameterError(f"{', '.join(options)}: only a published search has such options")
        return tuning.best(strategies)


def split(
    pipe: Any,
    inputs: Sequence[Input],
    held_out: Sequence[Input] | None,
    *,
    seed: int,
    **shared: Any,
) -> tuple[Workload, Workload]:
    """What is searched on, and what is measured on in the end."""
    given = Workload(pipe, inputs, seed=seed, **shared)
    if held_out is not None:
        return given, Workload(pipe, held_out, seed=seed + OTHER_NOISE, **shared)
    kept = len(given.inputs) // 3 if len(given.inputs) >= ENOUGH else 0
    searched = given.inputs[: len(given.inputs) - kept]
    return (
        Workload(pipe, searched, seed=seed, **shared),
        Workload(pipe, given.inputs[-kept:], seed=seed + OTHER_NOISE, **shared),
    )
