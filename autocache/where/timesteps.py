"""The scheduler's timesteps: fewer of them, or others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from autocache.errors import ParameterError, PatchError
from autocache.where.base import Where

Grid = Callable[[int], np.ndarray]

PUBLISHED_GRIDS: tuple[Grid, ...] = (
    lambda steps: np.linspace(1.0, 1 / steps, steps),
    lambda steps: np.linspace(1.0, 0.0, steps + 1)[:-1],
)
"""How diffusers' pipelines make the sigmas that they hand to their scheduler."""


@dataclass(frozen=True)
class Timesteps(Where):
    """What the scheduler is asked for is changed, in one of these ways.

    `steps` or the share `ratio` of them: as the pipeline would have asked for that many; of a list
    that someone made by hand, evenly chosen ones. `times` or `sigmas`: those instead. `indices`:
    of those there would have been, the ones at these indices.
    """

    steps: int | None = None
    ratio: float | None = None
    times: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    indices: tuple[int, ...] | None = None
    skips: ClassVar[bool] = False
    arranges: ClassVar[bool] = True
    needs_spec: ClassVar[bool] = False

    def timesteps(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        if self.indices is not None:
            return None
        accepted = inspect.signature(scheduler.set_timesteps)
        call = accepted.bind_partial(*args, **kwargs)
        asked: dict[str, Any] = call.arguments
        for name, given in (("timesteps", self.times), ("sigmas", self.sigmas)):
            if given is not None:
                _replace(scheduler, accepted, asked, name, list(given))
        if self.steps is not None or self.ratio is not None:
            self._fewer(asked)
        return call.args, call.kwargs

    def accept(self, pipeline: Any) -> None:
        if "strength" in inspect.signature(type(pipeline).__call__).parameters:
            self.refuse_midway(type(pipeline).__name__)

    def refuse_midway(self, pipeline: str) -> None:
        raise PatchError(
            f"the strategy chooses other timesteps, and {pipeline} counts from where to start in "
            "the ones it asked for (image-to-image, strength); ask it for fewer "
            "num_inference_steps instead"
        )

    def arrange(self, scheduler: Any) -> None:
        if self.indices is None:
            return
        times, sigmas = scheduler.timesteps, getattr(scheduler, "sigmas", None)
        if self.indices[-1] >= len(times):
            raise ParameterError(
                f"indices names step {self.indices[-1]}, and the scheduler has {len(times)} steps, "
                "counted from 0"
            )
        single = getattr(scheduler, "order", 1) == 1
        if not single or not isinstance(sigmas, torch.Tensor) or len(sigmas) != len(times) + 1:
            raise ParameterError(
                f"indices: a {type(scheduler).__name__} has no list of noise levels, one for each "
                "step, so single steps cannot be left out; give steps or ratio instead"
            )
        chosen = list(self.indices)
        scheduler.timesteps = times[chosen]
        scheduler.sigmas = sigmas[[*chosen, len(times)]]
        scheduler.num_inference_steps = len(chosen)

    def _count(self, before: int) -> int:
        if self.steps is not None:
            return min(self.steps, before)
        assert self.ratio is not None
        return max(1, round(self.ratio * before))

    def _fewer(self, asked: dict[str, Any]) -> None:
        for name in ("sigmas", "timesteps"):
            if asked.get(name) is not None:
                asked[name] = _spread(asked[name], self._count(len(asked[name])))
        if asked.get("num_inference_steps") is not None:
            asked["num_inference_steps"] = self._count(int(asked["num_inference_steps"]))


def _replace(
    scheduler: Any, accepted: inspect.Signature, asked: dict[str, Any], name: str, values: list
) -> None:
    if name not in accepted.parameters:
        known = [n for n in ("timesteps", "sigmas") if n in accepted.parameters]
        raise ParameterError(
            f"{name}: a {type(scheduler).__name__} takes none; "
            f"give {' or '.join([*known, 'steps', 'ratio'])} instead"
        )
    for other in ("num_inference_steps", "timesteps", "sigmas"):
        asked.pop(other, None)
    asked[name] = values


def _spread(values: Sequence[float], count: int) -> Any:
    """So many of the values: as a pipeline makes them, or evenly chosen from them."""
    before = len(values)
    if count >= before:
        return values
    for grid in PUBLISHED_GRIDS:
        if np.array_equal(np.asarray(values), grid(before)):
            return grid(count)
    return [values[nth * before // count] for nth in range(count)]
