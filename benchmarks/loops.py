"""A denoiser in a plain loop with its scheduler: what a pipeline does between its encoders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class Loop:
    """A denoiser, what drives it, and what it is called on beside latent and timestep."""

    model: nn.Module
    scheduler: Any
    pipeline: Any
    """Holds both, so that a patch of it hears the scheduler."""
    latent: torch.Tensor
    branches: dict[str, dict[str, Any]]
    """The arguments of each guidance branch, by the branch's name: one call a step for each."""
    time_by_itself: bool = False
    """The model takes latent and timestep by their place, and one timestep for all samples."""
    time_scale: float = 1.0
    """What the model is told of a timestep: so many times the scheduler's."""
    batched: bool = False
    """Two guidance branches are the halves of one batch."""
    now: Any = None
    """The timestep of the step under way, as pipelines have it."""
    announce: Callable[[], None] = lambda: None
    """Called before each generation: some caches have to be told that one begins."""

    @torch.no_grad()
    def run(self, steps: int, between: Callable[[], None] = lambda: None) -> list[torch.Tensor]:
        """The latents of one generation; `between` is called before the first step, after each."""
        between()
        latents = []
        for latent in self.advance(steps):
            latents.append(latent)
            between()
        return latents

    def advance(self, steps: int) -> Iterator[torch.Tensor]:
        """A generation, step by step, to take turns with others."""
        self.announce()
        # On the meta device they would have no values.
        device = "cpu" if self.latent.is_meta else self.latent.device
        self.scheduler.set_timesteps(steps, device=device)
        # As pipelines do: else a scheduler looks for its place at the first step, and waits.
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        latent = self.latent * float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        for time in self.scheduler.timesteps:
            latent = self._step(latent, time)
            yield latent

    def _step(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        self.now = time
        given = torch.cat([latent, latent]) if self.batched else latent
        if hasattr(self.scheduler, "scale_model_input"):
            given = self.scheduler.scale_model_input(given, time)
        outputs = []
        for name, arguments in self.branches.items():
            context: Any = getattr(self.model, "cache_context", None)
            with context(name) if context else contextlib.nullcontext():
                outputs.append(self._call(given, time, arguments))
        if self.batched:
            outputs = list(outputs[0].chunk(2))
        guided = outputs[0] if len(outputs) == 1 else outputs[1] + 4 * (outputs[0] - outputs[1])
        return self.scheduler.step(guided, time, latent, return_dict=False)[0]

    def _call(self, given: torch.Tensor, time: torch.Tensor, arguments: dict[str, Any]) -> Any:
        if self.time_by_itself:
            # DeepCache reads the timestep among the positional arguments.
            return self.model(given, time, **arguments, return_dict=False)[0]
        told = (time * self.time_scale).expand(given.shape[0])
        told = told.to(given.device, _time_type(time, given))
        call = {"hidden_states": given, "timestep": told, **arguments}
        return self.model(**call, return_dict=False)[0]


def _time_type(time: torch.Tensor, given: torch.Tensor) -> torch.dtype:
    return given.dtype if time.is_floating_point() else time.dtype
