"""What a scheduler would make of other outputs, tried out on a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def simulate(
    scheduler: Any, given: Mapping[str, Any], outputs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The latent after as many steps as there are outputs, the first the step under way.

    `given` are the arguments of that step, by name. The scheduler's history goes with the copy, and
    so does the state of a random generator: the same noise is drawn as in the run itself.
    """
    tried = copy.deepcopy(scheduler)
    given = dict(given)
    if "generator" in given:
        given["generator"] = _copied(given["generator"])
    given["return_dict"] = False
    first = _index(scheduler, given["timestep"])
    for nth, output in enumerate(outputs):
        if nth:
            given["timestep"] = tried.timesteps[first + nth]
        given["model_output"] = output
        given["sample"] = tried.step(**given)[0]
    return given["sample"]


def _index(scheduler: Any, timestep: Any) -> int:
    index = getattr(scheduler, "step_index", None)
    if index is None:
        begin = getattr(scheduler, "begin_index", None)
        if begin is not None:
            return begin
        places = (scheduler.timesteps == timestep).nonzero().flatten().tolist()
        # PNDM takes one timestep twice, and counts its steps.
        counted = getattr(scheduler, "counter", -1)
        return counted if counted in places else places[0]
    return index


def _copied(generator: Any) -> Any:
    if isinstance(generator, (list, tuple)):
        return [_copied(one) for one in generator]
    return generator if generator is None else generator.clone_state()
