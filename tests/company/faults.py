"""Faults: an error raised at a chosen step, in a chosen place of a pipeline."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from company.eager import STEPS
from pipelines.tiny_pipelines import denoisers, make, run
from torch import nn

INSIDE: dict[str, dict[str, str]] = {
    "flux": {
        "block": "single_transformer_blocks.1.proj_mlp",
        "attention": "transformer_blocks.1.attn.to_q",
        "norm": "transformer_blocks.0.norm1.linear",
        "head": "proj_out",
    },
    "wan": {
        "block": "blocks.1.ffn",
        "attention": "blocks.1.attn1.to_q",
        "norm": "blocks.0.norm1",
        "head": "proj_out",
    },
    "sd": {
        "block": "mid_block.attentions.0",
        "attention": "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "norm": "up_blocks.2.attentions.2.transformer_blocks.0.norm1",
        "head": "conv_out",
    },
}
"""Modules of the denoiser that can fail, by path; a norm is where a probe may be measured."""
OUTSIDE = ("callback", "scheduler", "timesteps", "after")
"""In the callback, in the scheduler's step, in set_timesteps, and after the loop."""
PLACES = ("block", "attention", "norm", "head", *OUTSIDE)


class Broken(Exception):
    """Raised by a test in the middle of a generation."""


class Fault:
    """Raises once armed, where it is first passed from its step on."""

    def __init__(self, place: str, step: int, error: type[BaseException]) -> None:
        self.place, self.step, self.now = place, step, 0
        self.error = error("broken")
        self.raised = False
        self.arrived: BaseException | None = None
        """What came out of the pipeline."""

    def passed(self, place: str) -> None:
        """A place is passed: raises where this is the one and it is time."""
        at_last = place in ("timesteps", "after") or self.now >= self.step
        if place == self.place and at_last and not self.raised:
            self.raised = True
            raise self.error


def scheduler(kind: type, fault: Callable[[str, object], None]) -> type:
    """A class of schedulers like `kind` that passes two places."""

    class Failing(kind):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            result = super().step(*args, **kwargs)
            fault("scheduler", self)
            return result

        @functools.wraps(kind.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
            super().set_timesteps(*args, **kwargs)
            fault("timesteps", self)

    return Failing


class Breakable:
    """A tiny pipeline in which everything can fail."""

    def __init__(self, name: str) -> None:
        self.pipe, self.name = make(name), name
        self.fault: Fault | None = None
        kind = scheduler(type(self.pipe.scheduler), self._pass_scheduler)
        self.pipe.scheduler = kind.from_config(self.pipe.scheduler.config)

    def _pass(self, place: str) -> None:
        if self.fault is not None:
            self.fault.passed(place)

    def _pass_scheduler(self, place: str, scheduler: object) -> None:
        # Copies of it are asked how its steps answer to what they are given.
        if scheduler is self.pipe.scheduler:
            self._pass(place)

    def _callback(self, _: Any, step: int, time: Any, given: dict) -> dict:
        if self.fault is not None:
            self.fault.passed("callback")
            self.fault.now = step + 1
        return given

    def draw(self, **options: Any) -> torch.Tensor:
        """One guided generation, of two calls per step or of one with both halves."""
        given = {"steps": STEPS, "guided": True, "callback_on_step_end": self._callback}
        return run(self.pipe, **given | options)

    def break_at(self, place: str, step: int, error: type[BaseException]) -> Fault:
        """A generation in which something fails, if that is reached."""
        fault = self.fault = Fault(place, step, error)
        with self._hooked():
            try:
                self.draw()
            except (Broken, KeyboardInterrupt) as arrived:
                fault.arrived = arrived
        self.fault = None
        return fault

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            for model, (place, path) in itertools.product(
                denoisers(self.pipe), INSIDE[self.name].items()
            ):
                undo.callback(self._on(model.get_submodule(path), place).remove)
            self.pipe.maybe_free_model_hooks = lambda: self._pass("after")
            undo.callback(self.pipe.__dict__.pop, "maybe_free_model_hooks")
            yield

    def _on(self, module: nn.Module, place: str) -> Any:
        return module.register_forward_pre_hook(lambda *_: self._pass(place))
