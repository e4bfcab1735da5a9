"""Uncached runs, recorded once: what every step was given and gave."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autocache.api import patched
from autocache.errors import AutocacheError
from autocache.how import Reuse
from autocache.runtime.root import session_of
from autocache.tuning.expectations import latents_of
from autocache.tuning.identity import digest, identity
from autocache.tuning.observe import Observed
from autocache.tuning.simulate import simulate
from autocache.when import Always

if TYPE_CHECKING:
    from autocache.runtime.moment import Call
    from autocache.tuning.workload import Workload


@dataclass
class Step:
    """One step: tensors of the latent's shape (batch, ...), on the host."""

    latent: torch.Tensor
    """What the scheduler stepped from."""
    given: torch.Tensor
    """What it was given to do so: the denoiser's outputs, guided."""
    outputs: dict[str, torch.Tensor]
    """The denoiser's outputs by guidance branch; a batch may hold several branches."""


@dataclass
class Trajectory:
    """One call of the pipeline."""

    steps: list[Step] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    """The latents it ended with, as the pipeline returns them, one for each input."""
    end: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """The latent after the last step."""
    shapes: list[list[int]] = field(default_factory=list)
    """Of the denoiser's latent inputs, without the batch."""

    def latent(self, step: int) -> torch.Tensor:
        """The latent before a step, or after the last."""
        return self.end if step == len(self.steps) else self.steps[step].latent


class _Recorder:
    def __init__(self) -> None:
        self.trajectory = Trajectory()
        self.outputs: dict[str, torch.Tensor] = {}

    def called(self, call: Call, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        self.trajectory.shapes = latents_of(call)
        output = run()
        self.outputs[call.branch] = host(output)
        return output

    def stepping(self, scheduler: Any, given: dict[str, Any]) -> None:
        self.trajectory.end = host(simulate(scheduler, given, [given["model_output"]]))
        step = Step(host(given["sample"]), host(given["model_output"]), self.outputs)
        self.trajectory.steps.append(step)
        self.outputs = {}


def record(
    workload: Workload,
    *,
    folder: Path | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Run the plain pipeline, call by call.

    Args:
        workload: what is run.
        folder: where recordings are kept, and taken from another time.
        tell: told how many inputs are done.

    Raises:
        AutocacheError: the pipeline's steps cannot be followed: its scheduler takes none that are
            heard, several denoisers take turns, or one returns several tensors.
    """
    found, done = [], 0
    for nth, call in enumerate(workload.calls()):
        file = folder and folder / f"{digest(identity(workload, nth=nth))}.pt"
        trajectory = _load(file) if file and file.exists() else _run(workload, call)
        if file and not file.exists():
            _save(trajectory, file)
        found.append(trajectory)
        done += len(trajectory.samples)
        if tell:
            tell(done)
    return found


def _run(workload: Workload, call: dict[str, Any]) -> Trajectory:
    recorder = _Recorder()
    with patched(workload.pipe, when=Always(), where=Observed(recorder), how=Reuse()):
        recorder.trajectory.samples = workload.draw(call, pictures=False)
        sessions = [session_of(model) for model in workload.denoisers]
        at_work = sum(s is not None and s.totals.sums.passes > 0 for s in sessions)
    trajectory = recorder.trajectory
    if not trajectory.steps:
        raise AutocacheError("no step of the pipeline's scheduler was heard")
    if at_work > 1:
        raise AutocacheError("several denoisers take turns in one generation")
    if not all(step.outputs for step in trajectory.steps):
        raise AutocacheError("the scheduler takes steps without a call of the denoiser")
    return trajectory


def _save(trajectory: Trajectory, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "steps": [[step.latent, step.given, step.outputs] for step in trajectory.steps],
        "end": trajectory.end,
        "shapes": trajectory.shapes,
        "samples": [torch.from_numpy(sample) for sample in trajectory.samples],
    }
    beside = file.with_suffix(f".{os.getpid()}.part")
    torch.save(kept, beside)
    beside.replace(file)


def _load(file: Path) -> Trajectory:
    kept = torch.load(file, weights_only=True)
    return Trajectory(
        [Step(*step) for step in kept["steps"]],
        [sample.numpy() for sample in kept["samples"]],
        kept["end"],
        kept["shapes"],
    )


def host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor on the host, in single precision."""
    return tensor.detach().to("cpu", torch.float32, copy=True)
