"""Trying out a scheduler's steps is as taking them, and leaves it as it was."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch

from autocache.tuning.simulate import simulate

SCHEDULERS = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "stochastic flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "heun": lambda: diffusers.HeunDiscreteScheduler(),
    "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "ddim, random": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False),
    "euler": lambda: diffusers.EulerDiscreteScheduler(),
    "ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(solver_order=3),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(),
    "dpm++ sde": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "pndm": lambda: diffusers.PNDMScheduler(skip_prk_steps=True),
}
RANDOM = {"ddim, random", "ddpm", "ancestral", "dpm++ sde", "stochastic flow"}
STEPS = 6


def prepared(name: str):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(STEPS)
    return scheduler


def given(name: str, scheduler, nth: int, sample, output, generator) -> dict:
    arguments = {"model_output": output, "timestep": scheduler.timesteps[nth], "sample": sample}
    if name in RANDOM:
        arguments["generator"] = generator
    if name == "ddim, random":
        arguments["eta"] = 0.7
    return arguments


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("begin", [0, 2])
def test_it_is_as_taking_the_steps(name: str, begin: int) -> None:
    """Several steps at once, from any step on: with the history of a multistep scheduler and the
    noise of a random one."""
    noise = torch.Generator().manual_seed(1)
    outputs = list(torch.randn(STEPS, 2, 4, 4, 4, generator=noise))
    live, generator = prepared(name), torch.Generator().manual_seed(5)
    sample = torch.randn(2, 4, 4, 4, generator=noise)
    for nth in range(begin):
        arguments = given(name, live, nth, sample, outputs[nth], generator)
        sample = live.step(**arguments, return_dict=False)[0]
    arguments = given(name, live, begin, sample, outputs[begin], generator)
    tried = simulate(live, arguments, outputs[begin : begin + 3])
    for nth in range(begin, begin + 3):
        arguments = given(name, live, nth, sample, outputs[nth], generator)
        sample = live.step(**arguments, return_dict=False)[0]
    assert torch.equal(tried, sample)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_nothing_is_left_of_it(name: str) -> None:
    """The scheduler goes on as if nothing had been tried, its noise included."""
    noise = torch.Generator().manual_seed(1)
    outputs = list(torch.randn(STEPS, 2, 4, 4, 4, generator=noise))
    start = torch.randn(2, 4, 4, 4, generator=noise)
    ends = []
    for tries in (False, True):
        live, generator, sample = prepared(name), torch.Generator().manual_seed(5), start
        for nth in range(STEPS):
            arguments = given(name, live, nth, sample, outputs[nth], generator)
            if tries:
                before = copy.copy(arguments)
                simulate(live, arguments, [torch.zeros_like(sample)] * (STEPS - nth))
                assert arguments.keys() == before.keys()
                assert all(arguments[key] is before[key] for key in before)
            sample = live.step(**arguments, return_dict=False)[0]
        ends.append(sample)
    assert torch.equal(*ends)


def test_a_generator_for_each_sample() -> None:
    """As pipelines have it for a batch of prompts."""
    live = prepared("ancestral")
    sample = torch.randn(2, 4, 4, 4)
    noise = [torch.Generator().manual_seed(n) for n in range(2)]
    arguments = {
        "model_output": sample,
        "timestep": live.timesteps[0],
        "sample": sample,
        "generator": noise,
    }
    tried = simulate(live, arguments, [sample])
    assert torch.equal(tried, live.step(**arguments, return_dict=False)[0])
