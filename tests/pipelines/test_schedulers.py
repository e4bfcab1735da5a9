"""Steps and generations come from the scheduler, whichever a pipeline holds."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from pipelines.tiny_pipelines import counted, flux, make, run

import autocache
import tiny
from autocache.api import attach

EULER = diffusers.FlowMatchEulerDiscreteScheduler


class Heun(diffusers.FlowMatchHeunDiscreteScheduler):
    """Takes what FluxPipeline passes on, of which it needs the number of steps."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
    ) -> None:
        super().set_timesteps(num_inference_steps or len(sigmas), device)


class Inherits(EULER):
    """Has no method of its own."""


class CallsSuper(EULER):
    """Overrides both methods, and calls those it overrides."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, device, sigmas, mu)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


def _steps(pipe: Any) -> list[tuple[int, int]]:
    records = sorted(autocache.stats(pipe).steps, key=lambda s: (s.generation, s.step))
    return [(s.generation, s.step) for s in records]


def _actions(pipe: Any, generation: int) -> str:
    records = [s for s in autocache.stats(pipe).steps if s.generation == generation]
    return "".join(s.action[0] for s in sorted(records, key=lambda s: s.step))


@pytest.mark.parametrize("name", ["flux", "wan", "dit"])
def test_a_scheduler_can_be_copied_while_patched(name: str) -> None:
    """A deep copy of the scheduler works, and stepping it does not move the pipeline's clock."""
    pipe = make(name)
    autocache.patch(pipe, "dit_block")
    expected = run(pipe)
    copied = copy.deepcopy(pipe.scheduler)
    assert type(copied) is type(pipe.scheduler)
    assert copied.config == pipe.scheduler.config

    class Both(type(pipe.scheduler)):
        """Steps a copy of itself beside itself."""

        def step(self, output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
            beside = copy.deepcopy(self)
            plain = super().step(output, timestep, sample, **kwargs)
            type(copied).step(beside, output, timestep, sample, **kwargs)
            return plain

    pipe.scheduler = Both.from_config(pipe.scheduler.config)
    assert torch.equal(run(pipe), expected)
    assert _steps(pipe)[-8:] == [(1, n) for n in range(8)]


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("kind", [Inherits, CallsSuper, diffusers.UniPCMultistepScheduler, Heun])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_scheduler_swapped_after_patching(name: str, kind: type, ran_before: bool) -> None:
    """A scheduler put in after the patch counts steps as one that was there before it."""
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    new = kind(**options) if kind is diffusers.UniPCMultistepScheduler else kind()
    fresh = make(name)
    fresh.scheduler = copy.deepcopy(new)
    with autocache.patch(fresh, "dit_block"):
        expected = run(fresh)
        steps, actions = _steps(fresh), _actions(fresh, 0)
    assert [step for _, step in steps] == list(range(15 if kind is Heun else 8))
    assert "r" in actions

    pipe = make(name)
    autocache.patch(pipe, "dit_block")
    if ran_before:
        run(pipe, steps=5)
    autocache.stats(pipe)
    pipe.scheduler = new
    for generation in (0, 1):
        assert torch.equal(run(pipe), expected)
        number = generation + ran_before
        assert _actions(pipe, number) == actions
        assert [s for g, s in _steps(pipe) if g == number] == [step for _, step in steps]
    assert autocache.stats(pipe).generations == 2 + ran_before


def test_a_class_and_its_subclass_at_work_side_by_side() -> None:
    """Two patched pipelines, one on a subclass of the other's scheduler, each count once."""
    pipes = [make("flux") for _ in range(3)]
    pipes[1].scheduler, pipes[2].scheduler = Inherits(), CallsSuper()
    for pipe in pipes:
        autocache.patch(pipe, "dit_block")
    outputs = [run(pipe) for pipe in pipes]
    for pipe, output in zip(pipes, outputs, strict=True):
        assert torch.equal(output, outputs[0])
        assert _steps(pipe) == [(0, n) for n in range(8)]
        assert _actions(pipe, 0) == "cccrcrcr"


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "attention"])
def test_second_order(strategy: str) -> None:
    """Under Heun each of the two evaluations is a step, and generations stay equal."""
    pipe = make("flux")
    pipe.scheduler = Heun()
    autocache.patch(pipe, tiny.choice(strategy))
    with counted(pipe) as counts:
        first = run(pipe, steps=6, guided=True)
    stats = autocache.stats(pipe)
    assert stats.passes == 2 * 11
    assert stats.attention.run == counts["attention"].total() < stats.attention.total
    assert torch.isfinite(first).all()
    assert torch.equal(run(pipe, steps=6, guided=True), first)
    assert autocache.stats(pipe).generations == 2


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "attention"])
def test_from_pipe_shares_the_patched_denoiser(strategy: str) -> None:
    """A pipeline made of a patched one skips the same, and does so without an error."""
    pipe = make("flux")
    autocache.patch(pipe, tiny.choice(strategy))
    expected = run(pipe)
    shared = diffusers.FluxPipeline.from_pipe(pipe)
    shared.set_progress_bar_config(disable=True)
    assert shared.transformer is pipe.transformer
    assert autocache.is_patched(shared)
    assert torch.equal(run(shared), expected)
    assert autocache.stats(shared).generations == 2
    autocache.unpatch(shared)
    assert not autocache.is_patched(pipe)


@pytest.mark.parametrize("attached", [False, True])
def test_image_to_image_begins_in_the_middle(attached: bool) -> None:
    """Of 10 steps at strength 0.6 six are run: they are the generation, with its own last step."""
    pipe = flux()
    patch = autocache.patch(pipe, tiny.choice("teacache"), threshold=1e9)
    other = diffusers.FluxImg2ImgPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    if attached:
        attach(other)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with counted(other) as counts:
        for _ in range(2):
            run(other, steps=10, image=image, strength=0.6)
    assert _steps(other) == [(g, n) for g in range(2) for n in range(6)]
    # The first step is computed, and so is the last one, which takes knowing the total.
    assert [_actions(other, g) for g in range(2)] == ["crrrrc", "crrrrc"]
    assert counts["block"].total() == patch.stats().blocks.run == 2 * 2 * 6
    assert torch.isfinite(run(pipe)).all()
    assert _actions(pipe, 2) == "crrrrrrc"
