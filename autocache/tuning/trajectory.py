"""Uncached runs, recorded once: what every step was given and gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autocache.api import patched
from autocache.errors import AutocacheError
from autocache.how import Reuse
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

    def latent(self, step: int) -> torch.Tensor:
        """The latent before a step, or after the last."""
        return self.end if step == len(self.steps) else self.steps[step].latent


class _Recorder:
    def __init__(self) -> None:
        self.trajectory = Trajectory()
        self.outputs: dict[str, torch.Tensor] = {}

    def called(self, call: Call, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        output = run()
        self.outputs[call.branch] = host(output)
        return output

    def stepping(self, scheduler: Any, given: dict[str, Any]) -> None:
        self.trajectory.end = host(simulate(scheduler, given, [given["model_output"]]))
        step = Step(host(given["sample"]), host(given["model_output"]), self.outputs)
        self.trajectory.steps.append(step)
        self.outputs = {}


def record(workload: Workload, tell: Callable[[int], None] | None = None) -> list[Trajectory]:
    """Run the plain pipeline, call by call. `tell` is told how many inputs are done.

    Raises:
        AutocacheError: the pipeline's scheduler takes no steps that can be heard.
    """
    found, done = [], 0
    for call in workload.calls():
        recorder = _Recorder()
        with patched(workload.pipe, when=Always(), where=Observed(recorder), how=Reuse()):
            recorder.trajectory.samples = workload.draw(call, pictures=False)
        if not recorder.trajectory.steps:
            raise AutocacheError("no step of the pipeline's scheduler was heard")
        found.append(recorder.trajectory)
        done += len(recorder.trajectory.samples)
        if tell:
            tell(done)
    return found


def host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor on the host, in single precision."""
    return tensor.detach().to("cpu", torch.float32, copy=True)
