"""What a late correction is worth, against the scheduler itself."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch
from company.placing import accelerator

from autocache.runtime.progress import progress
from autocache.runtime.response import gain, responses

LINEAR = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler": lambda: diffusers.EulerDiscreteScheduler(),
    "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "ddim v": lambda: diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "cogvideox": lambda: diffusers.CogVideoXDDIMScheduler(),
    "edm": lambda: diffusers.EDMEulerScheduler(),
}
"""Schedulers of order one that neither clip nor look back."""

OTHERS = {
    "clips": lambda: diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=1.0),
    "random": lambda: diffusers.EulerAncestralDiscreteScheduler(),
    "multistep": lambda: diffusers.DPMSolverMultistepScheduler(),
    "flow multistep": lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    ),
    "second order": lambda: diffusers.FlowMatchHeunDiscreteScheduler(),
}


def run(scheduler, outputs: list[torch.Tensor], until: int) -> torch.Tensor:
    """The latent before step `until`, from given outputs."""
    scheduler = copy.deepcopy(scheduler)
    latent = torch.linspace(-1, 1, 8).reshape(1, 2, 2, 2)
    for time, output in list(zip(scheduler.timesteps, outputs, strict=True))[:until]:
        latent = scheduler.step(output, time, latent, return_dict=False)[0]
    return latent


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LINEAR)
def test_a_gain_makes_good_for_an_early_error(name: str) -> None:
    """An error of one output, undone by a change of a later one as large as the gain says."""
    scheduler = LINEAR[name]()
    scheduler.set_timesteps(8)
    found = responses(scheduler)
    assert found is not None
    assert len(found) == 8
    chance = torch.Generator().manual_seed(0)
    outputs = [torch.randn(1, 2, 2, 2, generator=chance) for _ in range(8)]
    error = torch.randn(1, 2, 2, 2, generator=chance)
    for early, late in ((0, 1), (1, 4), (3, 6)):
        wrong = [*outputs]
        wrong[early] = outputs[early] + error
        right = run(scheduler, outputs, late + 1)
        assert not torch.allclose(run(scheduler, wrong, late + 1), right, rtol=1e-3, atol=1e-3)
        wrong[late] = outputs[late] - gain(found, early, late) * error
        torch.testing.assert_close(
            run(scheduler, wrong, late + 1), right, rtol=1e-3, atol=1e-3 * float(right.abs().max())
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LINEAR)
def test_responses_are_the_same_on_an_accelerator(name: str) -> None:
    """Where timesteps and noise levels are, a scheduler takes no latent of the CPU."""
    scheduler, elsewhere = LINEAR[name](), LINEAR[name]()
    scheduler.set_timesteps(8)
    elsewhere.set_timesteps(8, device=accelerator())
    assert elsewhere.timesteps.device.type == accelerator().type
    assert responses(elsewhere) == responses(scheduler) is not None
    assert elsewhere.timesteps.device.type == accelerator().type
    assert progress(elsewhere) == progress(scheduler)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_a_scheduler_that_answers_otherwise_has_no_response(name: str) -> None:
    """It clips, is random, or a step looks back on the outputs of others."""
    scheduler = OTHERS[name]()
    scheduler.set_timesteps(8)
    assert responses(scheduler) is None


def test_the_scheduler_stays_as_it_is() -> None:
    """In the middle of a generation too."""
    scheduler = LINEAR["flow"]()
    scheduler.set_timesteps(6)
    latent = torch.zeros(1, 2, 2, 2)
    for time in scheduler.timesteps[:3]:
        latent = scheduler.step(torch.ones(1, 2, 2, 2), time, latent, return_dict=False)[0]
    before = copy.deepcopy(vars(scheduler))
    found = responses(scheduler)
    assert found is not None
    assert [a for a, _ in found] == [1.0] * 6
    assert [b for _, b in found] == pytest.approx(scheduler.sigmas.diff().tolist(), rel=1e-4)
    assert scheduler.step_index == 3
    assert set(vars(scheduler)) == set(before)
