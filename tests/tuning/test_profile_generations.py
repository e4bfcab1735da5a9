"""What only a generation tells: scheduler, timesteps, resolution, guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from pipelines.tiny_pipelines import make, run

import autocache
from autocache import Profile
from autocache.errors import ProfileMismatchError
from autocache.tuning.made_for import MadeFor

STEPS = 8
FITTED = {
    "steps": [0, 1, 3, 5, 7],
    "total": STEPS,
    "weights": {"cond": [[[1.0]]] * 5, "uncond": [[[1.0]]] * 5},
}
"""Weights that repeat the last computed value, which is not what a forecast does."""
PLAIN = {key: value for key, value in FITTED.items() if key != "weights"}


def _profile(pipe: Any, parameters: dict[str, Any], **facts: Any) -> Profile:
    run(pipe, steps=STEPS)
    made_for = MadeFor.of(pipe, latents=[[16, 4]], **{"calls": 1, "parts": 1, **facts})
    return Profile(strategy="schedule", parameters=parameters, made_for=made_for)


def _euler(**config: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, **config)
        pipe.scheduler = scheduler

    return change


def _lcm(pipe: Any) -> None:
    pipe.scheduler = diffusers.FlowMatchLCMScheduler(shift=1.0)


def _as_it_is(pipe: Any) -> None:
    pass


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "autocache"]


SIGMAS = {"sigmas": [1.0, 0.95, 0.9, 0.85, 0.6, 0.4, 0.2, 0.1]}


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (_lcm, {}, "the scheduler is FlowMatchLCMScheduler, not FlowMatchEulerDiscreteScheduler"),
        (_euler(shift=3.0), {}, "FlowMatchEulerDiscreteScheduler is configured in another way"),
        (_as_it_is, SIGMAS, "the steps are at other timesteps"),
        (_as_it_is, {"steps": 10}, "the generation has 10 steps, not 8"),
        (_as_it_is, {"guided": True}, "a step has 2 denoiser calls, not 1"),
    ],
)
def test_where_fitted_weights_do_not_hold_the_forecast_stands_in(
    change: Callable[[Any], None],
    options: dict[str, Any],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The picture is that of the same schedule without weights, and the reason is told once; on
    what they were made for the weights hold."""
    pipe = make("flux")
    fitted, plain = _profile(pipe, FITTED), _profile(pipe, PLAIN)

    def draw(profile: Profile, **given: Any) -> torch.Tensor:
        with autocache.patched(pipe, profile):
            run(pipe, **{"steps": STEPS, **given})
            torch.manual_seed(0)  # some schedulers draw noise of their own
            return run(pipe, **{"steps": STEPS, **given})

    assert not torch.equal(draw(fitted), draw(plain))
    assert _told(caplog) == []
    change(pipe)
    drawn = draw(fitted, **options)
    assert sum(reason in told and told.startswith("profile ") for told in _told(caplog)) == 1
    assert any("weights do not apply" in told for told in _told(caplog))
    assert torch.equal(drawn, draw(plain, **options))


def test_another_resolution_is_said_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Weights hold there as long as the timesteps are the same."""
    pipe = make("flux")
    with autocache.patched(pipe, _profile(pipe, FITTED)):
        drawn = run(pipe, steps=STEPS, size=12)
    assert [told.partition(";")[0] for told in _told(caplog)] == [
        "profile given in memory: the latent is 36x4, not 16x4"
    ]
    with autocache.patched(pipe, "schedule", **FITTED):
        assert torch.equal(run(pipe, steps=STEPS, size=12), drawn)


def test_another_guidance_scale_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """And so is a batch with other guidance branches in it."""
    pipe = make("sd")
    run(pipe, steps=STEPS, guided=True)
    made_for = MadeFor.of(pipe, calls=1, parts=2)
    with autocache.patched(pipe, Profile(strategy="auto", made_for=made_for)):
        run(pipe, steps=STEPS, guided=True)
        assert _told(caplog) == []
        for _ in range(2):
            run(pipe, steps=STEPS, guided=False)
    assert [told.partition(";")[0] for told in _told(caplog)] == [
        "profile given in memory: the guidance scale is 1, not 3",
        "profile given in memory: a batch has 1 guidance branch, not 2",
    ]


def test_a_denoiser_that_predicts_something_else_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In every generation, until the scheduler is as it was."""
    pipe = make("sd")
    run(pipe, steps=STEPS)
    before = pipe.scheduler
    plain = run(pipe, steps=STEPS)
    profile = Profile(strategy="auto", made_for=MadeFor.of(pipe))
    with autocache.patched(pipe, profile):
        cached = run(pipe, steps=STEPS)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(
            before.config, prediction_type="v_prediction"
        )
        for _ in range(2):
            with pytest.raises(ProfileMismatchError, match="predicts epsilon, and the DDIM"):
                run(pipe, steps=STEPS)
        pipe.scheduler = before
        assert torch.equal(run(pipe, steps=STEPS), cached)
    assert torch.equal(run(pipe, steps=STEPS), plain)
    assert _told(caplog) == []


def test_a_loop_that_announces_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A bare model, called by hand."""
    import tiny

    pipe = make("dit")
    run(pipe, steps=STEPS)
    profile = Profile(strategy="auto", made_for=MadeFor.of(pipe))
    model, inputs = tiny.build("DiTTransformer2DModel", num_embeds_ada_norm=1000)
    with autocache.patched(model, profile):
        for time in range(STEPS, 0, -1):
            model(**inputs(100.0 * time))
    (told,) = _told(caplog)
    assert "it is not announced whether the generation has 8 steps" in told


def test_two_experts_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Of one pipeline: what differs for one of its denoisers does for the other."""
    pipe = make("wan")
    run(pipe, steps=STEPS)
    made_for = MadeFor.of(pipe)
    assert len(made_for.models) == 1
    with autocache.patched(pipe, Profile(strategy="auto", made_for=made_for)):
        run(pipe, steps=STEPS)
        assert _told(caplog) == []
        run(pipe, steps=STEPS + 2)
    assert len(_told(caplog)) == 1


def test_steps_that_a_strategy_chooses_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """They are not what the pipeline was asked for, and numbers of steps count them."""
    pipe = make("flux")
    run(pipe, steps=STEPS)
    members = [
        {"strategy": "dit_block", "parameters": {"step_start": 2, "step_interval": 2}},
        {"strategy": "fewer_steps", "parameters": {"steps": 6}},
    ]
    given = {"strategy": members, "made_for": MadeFor.of(pipe)}
    with autocache.patched(pipe, Profile.model_validate(given)) as patch:
        run(pipe, steps=STEPS)
        assert [record.action for record in patch.stats().steps] == [
            *["computed"] * 3,
            "reused",
            "computed",
            "reused",
        ]
    assert _told(caplog) == []
