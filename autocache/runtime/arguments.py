"""What the arguments of a denoiser call say: latents, time, frames, by the facts of the spec."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autocache.spec.bind import signature
from autocache.spec.schema import Spec


class Arguments:
    """Reads the (args, kwargs) of the calls of one denoiser."""

    def __init__(self, spec: Spec, model: type[nn.Module]) -> None:
        self.spec = spec
        self._forward = signature(model)
        self._latent = next((n for n in spec.latent_names if n in self._forward.names), None)
        self._ticks = itertools.count()

    def latent(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What is denoised: a tensor, a list of them, or None where it is not known."""
        return self._forward.get(self._latent, args, kwargs) if self._latent else None

    def frames(self, args: tuple, kwargs: dict[str, Any]) -> int | None:
        """The number of latent frames, where they are packed into tokens."""
        name = self.spec.frames
        return None if name is None else self._forward.get(name, args, kwargs)

    def writes_caches(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the call is one of those that the spec wants to be computed."""
        for name, values in self.spec.compute_when.items():
            try:
                given = self._forward.get(name, args, kwargs)
            except (AttributeError, LookupError):
                continue  # What would hold it is not there in this call.
            if isinstance(given, (str, bool, int)) and given in values:
                return True
        return False

    def time(self, args: tuple, kwargs: dict[str, Any]) -> float:
        """A number that differs between steps; where every token has a time of its own, too."""
        return self._time(args, kwargs, _mean)

    @property
    def direction(self) -> int:
        """The way that `time` goes in a generation, 1 or -1; 0 where nothing says so."""
        if self.spec.timestep is None:
            return 1
        return 0 if self.spec.file is None else -1 if self.spec.timestep_scale > 0 else 1

    def timestep(self, args: tuple, kwargs: dict[str, Any]) -> float:
        """The timestep on the scheduler's scale.

        Raises LookupError where the denoiser is not told.
        """
        if self.spec.timestep is None:
            raise LookupError(f"{self.spec.name} is not told the timestep")
        # Of several the noisiest: what is clean already does not tell how far the others are.
        noisiest = self._time(args, kwargs, torch.amax)
        return noisiest * self.spec.timestep_scale + self.spec.timestep_offset

    def _time(
        self, args: tuple, kwargs: dict[str, Any], of: Callable[[torch.Tensor], torch.Tensor]
    ) -> float:
        name = self.spec.timestep
        if name is None:
            # Nothing tells one step from the next: every call is one.
            return float(next(self._ticks))
        value = kwargs.get(name)
        if value is None:
            value = self._forward.get(name, args, kwargs)
        return float(of(value)) if isinstance(value, torch.Tensor) else float(value)


def latents(given: Any) -> tuple[torch.Tensor, ...]:
    """A latent or a list of them; none of lists in a list, which also hold what is not denoised."""
    if isinstance(given, torch.Tensor):
        return (given,)
    items = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    return items if all(isinstance(item, torch.Tensor) for item in items) else ()


def shape(args: tuple, kwargs: dict[str, Any]) -> tuple:
    """What must stay the same for cached tensors to fit: shape, dtype and device of every input."""
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found += value.shape, value.dtype, value.device
    return tuple(found)


def _mean(times: torch.Tensor) -> torch.Tensor:
    """It moves when any of them does, and in double precision it is exact for equal ones."""
    return times if times.numel() == 1 else times.to("cpu", torch.float64).mean()
