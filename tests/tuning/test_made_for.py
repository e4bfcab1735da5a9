"""What a live pipeline says of itself, and that it says the same whenever it is the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
from diffusers.configuration_utils import FrozenDict
from pipelines.tiny_pipelines import make, run
from torch import nn

import tiny
from autocache.tuning.fingerprint import fingerprint
from autocache.tuning.made_for import MadeFor, SchedulerFacts


def _flux(**config: Any) -> nn.Module:
    return tiny.build("FluxTransformer2DModel", **config)[0]


def _with(**changed: Any) -> nn.Module:
    model = _flux()
    model._internal_dict = FrozenDict({**model.config, **changed})
    return model


def test_a_configuration_has_one_fingerprint() -> None:
    """However it is ordered and written, whatever version, path or number format goes with it."""
    known = fingerprint(_flux())
    assert known is not None
    assert known == fingerprint(_flux(seed=1))
    reordered = _flux()
    reordered._internal_dict = FrozenDict(dict(reversed(list(reordered.config.items()))))
    axes = list(reordered.config["axes_dims_rope"])
    for same in (
        reordered,
        _with(_diffusers_version="9.9", _name_or_path="/elsewhere", _class_name="Other"),
        _with(axes_dims_rope=axes),
        _with(axes_dims_rope=tuple(map(float, axes))),
        _with(quantization_config={"bits": 4}, key_of_a_later_version=1),
    ):
        assert fingerprint(same) == known


@pytest.mark.parametrize(
    "changed",
    [{"num_single_layers": 7}, {"guidance_embeds": True}, {"axes_dims_rope": (4, 8, 4)}],
)
def test_another_configuration_has_another(changed: dict[str, Any]) -> None:
    """One value is enough."""
    assert fingerprint(_with(**changed)) != fingerprint(_flux())


def test_a_default_is_the_same_given_or_not() -> None:
    """As a later version of a class has more of them."""
    whole = _flux()
    without = {k: v for k, v in whole.config.items() if k != "guidance_embeds"}
    assert whole.config["guidance_embeds"] is False
    whole._internal_dict = FrozenDict(without)
    assert fingerprint(whole) == fingerprint(_flux())


def test_any_object_may_be_a_configuration() -> None:
    """Its attributes count, and what has no lasting text of its own by its type; none is none."""

    class Model(nn.Module):
        def __init__(self, **attributes: Any) -> None:
            super().__init__()
            self.config = SimpleNamespace(**attributes)

    known = fingerprint(Model(layers=3, activation=object()))
    assert known == fingerprint(Model(activation=object(), layers=3, torch_dtype="float16"))
    assert known != fingerprint(Model(layers=4, activation=object()))
    assert fingerprint(nn.Linear(1, 1)) is None


def test_a_scheduler_says_what_it_takes_the_output_for() -> None:
    """And has a fingerprint of its own."""
    flow = SchedulerFacts.of(diffusers.FlowMatchEulerDiscreteScheduler())
    assert flow.predicts == "flow"
    assert SchedulerFacts.of(diffusers.DDIMScheduler()).predicts == "epsilon"
    velocity = diffusers.DDIMScheduler(prediction_type="v_prediction")
    assert SchedulerFacts.of(velocity).predicts == "v_prediction"
    multistep = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    assert SchedulerFacts.of(multistep).predicts == "flow"
    shifted = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert SchedulerFacts.of(shifted).config != flow.config


def test_a_pipeline_that_has_run_tells_the_rest() -> None:
    """Steps and timesteps of its last run; of one that has not run they are not known."""
    pipe = make("flux")
    fresh = MadeFor.of(pipe)
    assert (fresh.steps, fresh.times) == (None, None)
    run(pipe, steps=6)
    made = MadeFor.of(pipe, latents=[(16, 4)], calls=2)
    assert [facts.class_ for facts in made.models] == [
        "diffusers.models.transformers.transformer_flux:FluxTransformer2DModel"
    ]
    assert made.steps == 6
    assert made.times == [float(time) for time in pipe.scheduler.timesteps]
    assert made.latents == [[16, 4]]
    assert made.guidance is not None
    assert (made.guidance.calls, made.guidance.scale) == (2, pipe.guidance_scale)
    assert made.versions["diffusers"] == diffusers.__version__
    assert MadeFor.of(pipe, steps=7).times is None
    assert len(MadeFor.of(make("wan")).models) == 1


def test_a_bare_model_tells_of_itself_alone() -> None:
    """There is no scheduler and no guidance to know of."""
    made = MadeFor.of(_flux())
    assert len(made.models) == 1
    assert (made.scheduler, made.guidance, made.steps) == (None, None, None)
