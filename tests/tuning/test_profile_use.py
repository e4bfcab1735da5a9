"""A profile on what it was made for, and on what it was not: adapted and told, or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import flux, make, run

import autocache
from autocache import Profile
from autocache.errors import (
    DoesNotApplyError,
    ParameterError,
    ProfileError,
    ProfileMismatchError,
)
from autocache.how import Reuse
from autocache.tuning.made_for import MadeFor
from autocache.when import Interval

STEPS = 12
EVERY_SECOND = {"step_start": 2, "step_interval": 2, "step_end": 9}


def _made_for(pipe: Any, **facts: Any) -> MadeFor:
    """What the pipeline is after one plain run of a known length."""
    run(pipe, steps=STEPS)
    return MadeFor.of(pipe, **{"latents": [[16, 4]], "calls": 1, "parts": 1, **facts})


def _profile(pipe: Any, strategy: str = "dit_block", **parameters: Any) -> Profile:
    own = parameters or EVERY_SECOND
    return Profile(strategy=strategy, parameters=own, made_for=_made_for(pipe))


def _map(patch: autocache.Patch) -> str:
    """The last generation's steps: C computed, s skipped."""
    records = patch.stats().steps
    last = [record for record in records if record.generation == records[-1].generation]
    first = last[0].branch
    return "".join("Cs"[r.action != "computed"] for r in last if r.branch == first)


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records if record.name == "autocache"]
    caplog.clear()
    return told


def test_where_it_was_made_it_is_the_strategy_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the file, by its path as text or as a path, or of the object."""
    pipe = make("flux")
    profile = _profile(pipe)
    with autocache.patched(pipe, "dit_block", **EVERY_SECOND) as patch:
        expected, steps = run(pipe, steps=STEPS), _map(patch)
    assert steps == "CCCsCsCsCsCC"
    file = profile.write(tmp_path / "fast.yaml")
    for given in (profile, file, str(file)):
        with autocache.patched(pipe, given) as patch:
            assert torch.equal(run(pipe, steps=STEPS), expected)
            assert _map(patch) == steps
            assert patch.stats().parameters == EVERY_SECOND
            assert patch.stats().profile == autocache.stats(pipe).to_dict()["profile"] == str(file)
            assert str(file) in str(patch.stats())
            assert str(file) in repr(patch)
    assert _told(caplog) == []


def test_a_plain_strategy_names_no_profile() -> None:
    """In no record of it."""
    pipe = make("flux")
    with autocache.patched(pipe, "dit_block") as patch:
        assert patch.stats().to_dict()["profile"] is None
        assert "profile" not in str(patch.stats()) + repr(patch)
    with autocache.patched(pipe, Profile(strategy="dit_block")) as patch:
        assert patch.profile == "given in memory"


@pytest.mark.parametrize(
    ("parameters", "at_12", "at_24", "at_6"),
    [
        (EVERY_SECOND, "CCCsCsCsCsCC", "CCCCCsCsCsCsCsCsCsCsCCCC", "CCsCsC"),
        (
            {"step_start": 0, "step_interval": 3, "warmup_steps": 4, "last_steps": 2},
            "CCCCssCssCCC",
            "CCCCCCCCsCssCssCssCsCCCC",
            "CCsCsC",
        ),
        (
            {"step_start": 0, "step_interval": 2, "step_window": (3, 6), "max_skips": 2},
            "CCCsCsCCCCCC",
            "CCCCCCCsCsCsCsCCCCCCCCCC",
            "CCCsCC",
        ),
        (
            {"step_start": 0, "step_interval": 2, "last_steps": 1},
            "CsCsCsCsCsCC",
            "CsCsCsCsCsCsCsCsCsCsCsCC",
            "CsCsCC",
        ),
    ],
)
def test_numbers_of_steps_mean_the_same_share_of_another_generation(
    parameters: dict[str, Any],
    at_12: str,
    at_24: str,
    at_6: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which is said once; and in one of the right length they are what they are."""
    pipe = make("flux")
    with autocache.patched(pipe, _profile(pipe, **parameters)) as patch:
        for steps, letters in ((24, at_24), (6, at_6), (24, at_24), (12, at_12)):
            run(pipe, steps=steps)
            assert _map(patch) == letters
    told = _told(caplog)
    assert len(told) == 1
    assert "the generation has 24 steps, not 12" in told[0]


def test_a_default_schedule_is_as_long_as_the_generation() -> None:
    """Nothing in it counts steps, so nothing changes with what it was made for."""
    pipe = make("flux")
    profile = _profile(pipe, "auto", speedup=3.0)
    for steps in (12, 20):
        with autocache.patched(pipe, "auto", speedup=3.0):
            expected = run(pipe, steps=steps)
        with autocache.patched(pipe, profile):
            assert torch.equal(run(pipe, steps=steps), expected)


def test_another_class_of_models_is_refused_by_name() -> None:
    """Both are named, and the model is as it was; a kind of its own class is not another."""
    profile = _profile(make("flux"))
    pipe = make("dit")
    with pytest.raises(ProfileMismatchError, match="FluxTransformer2DModel") as caught:
        autocache.patch(pipe, profile)
    assert "this is a diffusers.models.transformers.dit_transformer_2d:" in str(caught.value)
    assert not autocache.is_patched(pipe)
    assert isinstance(caught.value, ProfileError)
    assert isinstance(caught.value, DoesNotApplyError)
    made_from = make("flux")
    made_from.transformer.__class__ = type("Wrapped", (type(made_from.transformer),), {})
    with autocache.patched(made_from, profile):
        assert autocache.is_patched(made_from)


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        ("teacache", {"coefficients": (1.0, 0.0), "threshold": 0.5}),
        ("magcache", {"ratios": (1.0, 0.9)}),
        ("schedule", {"steps": (0, 2), "total": 4, "weights": {"cond": [[[1.0]]] * 2}}),
    ],
)
def test_what_was_fitted_is_refused_on_another_configuration(
    strategy: str, parameters: dict[str, Any]
) -> None:
    """Of the same class; the reason names what was fitted."""
    profile = _profile(make("flux"), strategy, **parameters)
    other = flux(num_single_layers=2)
    fitted = set(parameters) & {"coefficients", "ratios", "weights"}
    with pytest.raises(ProfileMismatchError, match=f"{fitted.pop()} were fitted to that model"):
        autocache.patch(other, profile)
    assert not autocache.is_patched(other)


def test_what_needs_no_fit_goes_on_with_another_configuration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And says that the model is another."""
    profile = _profile(make("flux"))
    other = flux(num_single_layers=2)
    with autocache.patched(other, profile) as patch:
        run(other, steps=STEPS)
        assert "s" in _map(patch)
    (told,) = _told(caplog)
    assert "was made for a FluxTransformer2DModel of the configuration" in told
    assert "nothing in it was fitted" in told


def test_parameters_of_the_call_go_before_those_of_the_file(tmp_path: Path) -> None:
    """And the statistics say that they did; options of patch in the file count as well."""
    pipe = make("flux")
    file = _profile(pipe).write(tmp_path / "fast.yaml")
    with autocache.patched(pipe, file, step_interval=4) as patch:
        run(pipe, steps=STEPS)
        assert _map(patch) == "CCCsssCsssCC"
        assert patch.profile == f"{file} with step_interval=4"
    with autocache.patched(pipe, (str(file), {"step_interval": 1})) as patch:
        run(pipe, steps=STEPS)
        assert _map(patch) == "C" * STEPS
    dry = Profile(strategy="dit_block", parameters={"dry_run": True, "memory_limit": "1GiB"})
    plain = run(pipe, steps=STEPS)
    with autocache.patched(pipe, dry) as patch:
        assert torch.equal(run(pipe, steps=STEPS), plain)
        assert "s" in _map(patch)
        with (
            autocache.patched(pipe, dry, memory_limit=1),
            pytest.raises(autocache.errors.MemoryLimitError),
        ):
            run(pipe, steps=STEPS)


def test_a_profile_is_a_choice_by_itself(tmp_path: Path) -> None:
    """Not one of several, and not beside parts; its parameters are checked like any."""
    pipe = make("flux")
    profile = _profile(pipe)
    with pytest.raises(ParameterError, match="cannot be one of several"):
        autocache.patch(pipe, [profile, "invariant"])
    with pytest.raises(ParameterError, match="not both"):
        autocache.patch(pipe, profile, when=Interval(2), how=Reuse())
    with pytest.raises(ParameterError, match="did you mean 'step_interval'"):
        autocache.patch(pipe, profile, step_intervall=3)
    with pytest.raises(ProfileError, match=r"gone\.yaml:1:1: cannot read the file"):
        autocache.patch(pipe, tmp_path / "gone.yaml")
    with pytest.raises(ParameterError, match="expected a name, a strategy object, or a profile"):
        autocache.patch(pipe, 3)  # type: ignore[arg-type]
    assert not autocache.is_patched(pipe)


def test_several_strategies_in_one_profile() -> None:
    """Each with its own parameters."""
    pipe = make("flux")
    profile = Profile.parse(
        "strategy:\n  - {strategy: dit_block, parameters: {step_interval: 3}}\n  - invariant\n"
    )
    with autocache.patched(pipe, [("dit_block", {"step_interval": 3}), "invariant"]):
        expected = run(pipe, steps=STEPS)
    with autocache.patched(pipe, profile) as patch:
        assert torch.equal(run(pipe, steps=STEPS), expected)
        assert patch.strategy.name == "dit_block+invariant"


def test_other_versions_are_only_noted(caplog: pytest.LogCaptureFixture) -> None:
    """Which is no warning."""
    pipe = make("flux")
    made_for = _made_for(pipe).model_copy(update={"versions": {"torch": "1.0", "other": "3"}})
    with caplog.at_level(logging.INFO, logger="autocache"):
        autocache.patch(pipe, Profile(strategy="dit_block", made_for=made_for))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "was made with torch 1.0 (here " in record.getMessage()
    assert "other" not in record.getMessage()


def test_of_several_denoisers_the_one_it_was_made_for_is_patched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other runs as it is, which is said."""

    class Two:
        def __init__(self) -> None:
            self.components = {"prior": make("dit").transformer, "transformer": flux().transformer}

    two = Two()
    with autocache.patched(two, _profile(make("flux"))) as patch:
        assert patch.denoisers == [two.components["transformer"]]
    (told,) = _told(caplog)
    assert told.startswith("DiTTransformer2DModel runs as it is: profile")
