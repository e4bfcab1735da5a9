"""Fewer steps: exactly what the pipeline does when it is asked for them."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from pipelines.tiny_pipelines import BUILDERS, dit, make, run

import autocache
import tiny
from autocache.errors import ParameterError, PatchError


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_count_is_what_the_pipeline_would_have_done(name, guided):
    """Bit for bit the run with that many num_inference_steps, with the clock in step."""
    expected = run(make(name), steps=5, guided=guided)
    pipe = make(name)
    for options in ({"steps": 5}, {"ratio": 0.45}):
        with autocache.patched(pipe, "fewer_steps", **options) as patch:
            assert torch.equal(run(pipe, steps=11, guided=guided), expected)
            stats = patch.stats()
            assert max(step.step for step in stats.steps) == 4
            assert stats.bytes_peak == 0
            assert stats.generations == 1
    assert torch.equal(run(pipe, steps=5, guided=guided), expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_to_save_changes_nothing(name):
    """A pipeline that asks for no more than the given steps gets what it asks for."""
    plain = run(make(name), steps=6)
    pipe = make(name)
    for options in ({"steps": 6}, {"steps": 50}, {"ratio": 1.0}):
        with autocache.patched(pipe, "fewer_steps", **options):
            assert torch.equal(run(pipe, steps=6), plain)


def test_half_the_steps_by_default():
    """Without parameters every second step is taken."""
    pipe = make("wan")
    with autocache.patched(pipe, "fewer_steps"):
        assert torch.equal(run(pipe, steps=12), run(make("wan"), steps=6))


def test_flux_sigmas_of_ones_own():
    """The strategy's list is what the pipeline's own argument would be."""
    sigmas = [1.0, 0.7, 0.2]
    expected = run(make("flux"), sigmas=sigmas, steps=3)
    pipe = make("flux")
    with autocache.patched(pipe, "fewer_steps", sigmas=sigmas):
        assert torch.equal(run(pipe, steps=20), expected)
    # Of a list made by hand the evenly chosen values stay.
    given = [1.0, 0.95, 0.7, 0.5, 0.2, 0.1]
    with autocache.patched(pipe, "fewer_steps", steps=3):
        assert torch.equal(
            run(pipe, sigmas=given, steps=6), run(make("flux"), sigmas=[1, 0.7, 0.2])
        )


def multistep():
    pipe = dit()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_timesteps_of_ones_own():
    """They reach a scheduler that takes them, and count as the steps there are."""
    pipe = multistep()
    with autocache.patched(pipe, "fewer_steps", timesteps=[999, 700, 300, 20]) as patch:
        run(pipe, steps=20)
        assert pipe.scheduler.timesteps.tolist() == [999, 700, 300, 20]
        assert patch.stats().passes == 4


@pytest.mark.parametrize("make_pipe", [multistep, lambda: make("flux"), lambda: make("wan")])
def test_some_of_the_original_steps(make_pipe):
    """`indices` picks timesteps and noise levels, whatever shift the scheduler has applied."""
    pipe = make_pipe()
    run(pipe, steps=10)
    times, sigmas = pipe.scheduler.timesteps.clone(), pipe.scheduler.sigmas.clone()
    everything = run(make_pipe(), steps=10)
    with autocache.patched(pipe, "fewer_steps", indices=range(10)):
        assert torch.equal(run(pipe, steps=10), everything)
    with autocache.patched(pipe, "fewer_steps", indices=[0, 3, 4, 8]) as patch:
        assert not torch.equal(run(pipe, steps=10), everything)
        assert torch.equal(pipe.scheduler.timesteps, times[[0, 3, 4, 8]])
        assert torch.equal(pipe.scheduler.sigmas, sigmas[[0, 3, 4, 8, 10]])
        assert {step.step for step in patch.stats().steps} == {0, 1, 2, 3}
    assert torch.equal(run(pipe, steps=10), everything)


def test_what_a_scheduler_cannot_do_is_said():
    """DDIM takes neither lists nor gaps; the message names what it does take."""
    pipe = make("dit")
    for options in ({"timesteps": [900, 100]}, {"sigmas": [1.0, 0.5]}, {"indices": [0, 2]}):
        with (
            autocache.patched(pipe, "fewer_steps", **options),
            pytest.raises(ParameterError, match=r"DDIMScheduler .* give .*steps or ratio"),
        ):
            run(pipe, steps=4)
    pipe.scheduler = diffusers.HeunDiscreteScheduler()
    with (
        autocache.patched(pipe, "fewer_steps", indices=[0, 2]),
        pytest.raises(ParameterError, match=r"HeunDiscreteScheduler .* give steps or ratio"),
    ):
        run(pipe, steps=4)
    flux = make("flux")
    with (
        autocache.patched(flux, "fewer_steps", indices=[0, 4]),
        pytest.raises(ParameterError, match="indices names step 4, and the scheduler has 4 steps"),
    ):
        run(flux, steps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({"steps": 3, "ratio": 0.5}, "only one of steps and ratio"),
        ({"indices": [3, 1]}, "must rise"),
        ({"indices": [-1, 2]}, "must rise"),
        ({"indices": []}, "indices"),
        ({"step": 3}, "did you mean 'steps'"),
        ({"blocks": (0, 1)}, "acts on no blocks"),
    ],
)
def test_wrong_parameters(options, message):
    """All are told at patch time, and the pipeline stays as it is."""
    pipe = make("flux")
    with pytest.raises(ParameterError, match=message):
        autocache.patch(pipe, "fewer_steps", **options)
    assert not autocache.is_patched(pipe)


def test_a_bare_model_has_no_scheduler():
    """A model may be patched before its pipeline comes, but does not run as if it were faster."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    patch = autocache.patch(model, "fewer_steps", steps=3)
    with pytest.raises(PatchError, match=r"no pipeline is known to run this Flux.*patch the pipel"):
        model(**inputs(0.5))
    patch.enabled = False
    model(**inputs(0.5))
    patch.enabled = True
    pipe = make("flux")
    pipe.transformer = model
    from autocache import api

    api.attach(pipe)
    assert torch.equal(run(pipe, steps=9), run(make("flux"), steps=3))


def test_image_to_image_counts_its_steps_itself():
    """What starts in the middle is refused: at patch time, and where it shares a scheduler."""
    pipe = make("flux")
    image = diffusers.FluxImg2ImgPipeline.from_pipe(pipe)
    with pytest.raises(PatchError, match="num_inference_steps instead"):
        autocache.patch(image, "fewer_steps")
    assert not autocache.is_patched(pipe)
    autocache.patch(pipe, "fewer_steps")
    with pytest.raises(PatchError, match="num_inference_steps instead"):
        run(image, steps=10, strength=0.5, image=torch.zeros(1, 3, 8, 8))
    run(pipe, steps=10)


def test_the_noise_levels_that_pipelines_make():
    """Both published grids are recognised, at any count."""
    from autocache.where.timesteps import PUBLISHED_GRIDS, _spread

    for grid in PUBLISHED_GRIDS:
        for before in (2, 7, 28, 50):
            for count in (1, 2, 5, 28):
                expected = grid(min(count, before))
                assert np.array_equal(_spread(grid(before), count), expected)
