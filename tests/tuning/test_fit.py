"""Weights fitted while running: nearer to the uncached run, and the same again in a patch."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from pipelines import tiny_pipelines

import autocache
from autocache import demo
from autocache.demo import clips, single
from autocache.demo.prompts import held_out
from autocache.errors import AutocacheError
from autocache.tuning.fit import Normal, fit
from autocache.tuning.mixture import mixture
from autocache.tuning.observe import SeveralOutputs
from autocache.tuning.schedule_search import Schedules, shifted
from autocache.tuning.trajectory import record
from autocache.tuning.workload import Workload

STEPS = 10
CHOSEN = (0, 1, 3, 5, 8)
PIPELINES: dict[str, tuple[str, type, dict[str, Any], Any]] = {
    "flux": ("shapes", diffusers.FluxPipeline, {"max_sequence_length": 24}, held_out),
    "flux, guided in calls": (
        "shapes",
        diffusers.FluxPipeline,
        {"max_sequence_length": 24, "true_cfg_scale": 4.0, "negative_prompt": ""},
        held_out,
    ),
    "sd, guided in a batch": (
        "shapes_sd",
        diffusers.StableDiffusionPipeline,
        {"guidance_scale": 4.0},
        single.held_out,
    ),
    "sd, rescaled": (
        "shapes_sd",
        diffusers.StableDiffusionPipeline,
        {"guidance_scale": 4.0, "guidance_rescale": 0.7},
        single.held_out,
    ),
    "wan": (
        "shapes_wan",
        diffusers.WanPipeline,
        {"num_frames": 5, "guidance_scale": 4.0},
        clips.held_out_clips,
    ),
}


def workload(name: str, count: int = 2, **options: Any) -> Workload:
    folder, cls, call, prompts = PIPELINES[name]
    pipe = cls.from_pretrained(demo.path(folder), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "num_inference_steps": STEPS, **call}
    return Workload(pipe, prompts(count), call=call, **options)


def errors(made: Workload, whole: list[np.ndarray], **parameters: Any) -> np.ndarray:
    """Mean squared error of each input's latents under `schedule`."""
    with autocache.patched(made.pipe, "schedule", steps=CHOSEN, total=STEPS, **parameters):
        drawn = made.run(pictures=False).samples
    return np.array([np.mean((a - b) ** 2) for a, b in zip(drawn, whole, strict=True)])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_patch_draws_what_the_fit_did(name: str) -> None:
    """The weights, in the hands of the strategy, end where the fitting run ended; and that is
    nearer to the uncached run than the same steps with the forecast."""
    made = workload(name)
    recorded = record(made)
    whole = [sample for one in recorded for sample in one.samples]
    mixed = mixture(recorded)
    assert (mixed.names == ()) == (name == "sd, rescaled")
    found = fit(made, recorded, CHOSEN, mixed, order=3)
    patched = errors(made, whole, weights=found.weights)
    if mixed.names:  # Else the branches are weighted before guidance, and the fit is after it.
        np.testing.assert_allclose(patched, found.errors, rtol=0.02)
    assert patched.mean() < errors(made, whole).mean()
    assert not autocache.is_patched(made.pipe)


SCHEDULERS = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler(name: str) -> None:
    """With history or noise of its own: what is fitted is no worse than the forecast."""
    made = workload("sd, guided in a batch")
    made.pipe.scheduler = SCHEDULERS[name].from_config(made.pipe.scheduler.config)
    recorded = record(made)
    whole = [sample for one in recorded for sample in one.samples]
    found = fit(made, recorded, CHOSEN, mixture(recorded), order=3)
    patched = errors(made, whole, weights=found.weights)
    np.testing.assert_allclose(patched, found.errors, rtol=0.05)
    assert patched.mean() < errors(made, whole).mean()


def test_a_recording_is_the_run(tmp_path) -> None:
    """The latents of each step, and the samples; kept in a folder it is not drawn again."""
    made = workload("flux, guided in calls", 3, batch=2)
    recorded = record(made, folder=tmp_path)
    assert [len(one.samples) for one in recorded] == [2, 1]
    drawn = made.run(pictures=False).samples
    samples = [sample for one in recorded for sample in one.samples]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, samples, strict=True))
    for one in recorded:
        assert len(one.steps) == STEPS
        np.testing.assert_array_equal(one.latent(STEPS).numpy(), np.stack(one.samples))
        sigmas = made.pipe.scheduler.sigmas
        for nth, step in enumerate(one.steps):
            gain = float(sigmas[nth + 1] - sigmas[nth])
            stepped = step.latent + gain * step.given
            torch.testing.assert_close(stepped, one.latent(nth + 1), rtol=1e-4, atol=1e-4)
    calls = []
    handle = made.pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    again = record(made, folder=tmp_path)
    handle.remove()
    assert not calls
    assert torch.equal(again[1].end, recorded[1].end)
    assert again[0].shapes == recorded[0].shapes == [[16, 16]]
    assert torch.equal(again[0].steps[3].outputs["uncond"], recorded[0].steps[3].outputs["uncond"])


def test_scores_are_of_inputs_that_nothing_was_fitted_to() -> None:
    """Of two folds each is judged by the other's weights: no better than its own would be."""
    made = workload("flux", 4)
    recorded = record(made)
    mixed = mixture(recorded)
    apart = fit(made, recorded, CHOSEN, mixed, order=3, folds=2)
    together = fit(made, recorded, CHOSEN, mixed, order=3)
    assert np.log(apart.errors).mean() > np.log(together.errors).mean()
    # The weights themselves rest on all inputs.
    first = together.weights[next(iter(together.weights))][0]
    assert np.allclose(apart.weights[next(iter(apart.weights))][0], first, rtol=1e-3)


def test_least_squares() -> None:
    """What the terms leave open is as in the prior, and several runs add up."""
    terms = [torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])]
    one, other = Normal(2), Normal(2)
    one.add([terms[0], 0 * terms[1]], torch.tensor([2.0, 0.0, 0.0]))
    np.testing.assert_allclose(one.solve(np.array([1.0, 7.0])), [2.0, 7.0], atol=1e-3)
    other.add([0 * terms[0], terms[1]], torch.tensor([0.0, 3.0, 5.0]))
    solved = Normal.sum([one, other]).solve(np.zeros(2))
    np.testing.assert_allclose(solved, [2.0, 3.0], atol=1e-3)


def test_a_step_is_moved_where_there_is_room() -> None:
    """Never the first, never onto another."""
    assert shifted((0, 2, 3, 7), 1, -1, 8) == (0, 1, 3, 7)
    assert shifted((0, 2, 3, 7), 1, 1, 8) == (0, 2, 3, 7)
    assert shifted((0, 2, 3, 7), 3, 1, 8) == (0, 2, 3, 7)
    assert shifted((0, 1, 3, 7), 1, -1, 8) == (0, 1, 3, 7)
    assert shifted((0, 2), 5, 1, 8) == (0, 2)


def test_a_search_is_of_its_number_of_steps(tmp_path) -> None:
    """Best first, each with as many computed steps as asked, with weights that fit to them."""
    made = workload("flux", 4)
    found = Schedules(made, record(made)).search(4, trials=9)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert len({one.steps for one in found}) == len(found) > 1
    for one in found:
        assert len(one.steps) == 4
        with autocache.patched(made.pipe, "schedule", **one.parameters):
            pass


def test_several_denoisers_cannot_be_followed() -> None:
    """Two experts take turns."""
    pipe = tiny_pipelines.make("wan")
    call = tiny_pipelines._arguments(pipe, 8, 1, False, 0) | {"num_inference_steps": 4}
    with pytest.raises(AutocacheError, match="several denoisers"):
        record(Workload(pipe, [call]))
    assert not autocache.is_patched(pipe)
    assert issubclass(SeveralOutputs, AutocacheError)
