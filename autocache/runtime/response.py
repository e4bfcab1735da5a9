"""How a scheduler's step answers to the denoiser's output, and what a late correction is worth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

Response = tuple[float, float]
"""(a, b) of a step `sample' = a * sample + b * output`."""

_SAMPLES = (1.0, 0.0, 2.0, -1.5)
_OUTPUTS = (0.0, 1.0, -0.5, 0.75)
_TOLERANCE = 1e-3


def responses(scheduler: Any) -> tuple[Response, ...] | None:
    """The response of every step of the scheduler's timesteps, None where there is no such.

    There is none where a step is not linear, looks back on other steps or is random. A copy of the
    scheduler is stepped through its timesteps with numbers for samples; it is left as it is.
    """
    probe = copy.deepcopy(scheduler)
    for name, value in vars(probe).items():
        if isinstance(value, torch.Tensor):
            # What it is stepped with is on the CPU, too, and nothing is waited for in each step.
            setattr(probe, name, value.cpu())
    found = []
    for nth, time in enumerate(probe.timesteps):
        if hasattr(probe, "_step_index"):
            probe._step_index = nth
        response = _response(probe, time, nth)
        if response is None:
            return None
        found.append(response)
    return tuple(found)


def _response(scheduler: Any, time: torch.Tensor, nth: int) -> Response | None:
    """From two pure inputs; two mixed ones, which differ from step to step, have to agree."""
    signs = torch.tensor([1.0, 1.0, 1.0 - 2 * (nth % 2), 1.0 - 2 * (nth // 2 % 2)])
    sample = torch.tensor(_SAMPLES).reshape(4, 1, 1, 1)
    output = (torch.tensor(_OUTPUTS) * signs).reshape(4, 1, 1, 1)
    try:
        answer = scheduler.step(output, time, sample, return_dict=False)[0].flatten().double()
    except Exception:  # Whatever a scheduler wants that is not here: it has no known response.
        return None
    if answer.shape != (len(_SAMPLES),):
        return None  # It goes on from a sample that it remembers.
    a, b = float(answer[0]), float(answer[1])
    expected = a * sample.flatten().double() + b * output.flatten().double()
    if not torch.isfinite(answer).all() or b == 0:
        return None
    near = _TOLERANCE * max(abs(a), abs(b))
    return (a, b) if float((answer - expected).abs().max()) <= near else None


def gain(found: Sequence[Response], early: int, late: int) -> float:
    """What a change of the output in an early step is worth as a change in a late one."""
    worth = found[early][1] / found[late][1]
    for a, _ in found[early + 1 : late + 1]:
        worth *= a
    return worth
