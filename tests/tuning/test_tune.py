"""tune: each way to ask, what it hands back, and that it leaves everything else as it was."""

from __future__ import annotations

import functools
import logging

import diffusers
import numpy as np
import pytest
import torch

import autocache
from autocache import demo
from autocache.demo.prompts import held_out
from autocache.errors import ParameterError, UnknownStrategyError
from autocache.tuning.reference import Reference
from autocache.tuning.strategies import measured
from autocache.tuning.tune import split
from autocache.tuning.workload import Workload

STEPS = 6
CALL = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": STEPS}
PROMPTS = held_out(2, 0)
MORE = held_out(5, 0)


@pytest.fixture(scope="module")
def pipe() -> diffusers.FluxPipeline:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def twice(pipe) -> autocache.Profile:
    return autocache.tune(pipe, MORE, speedup=2, budget=60, call=CALL)


def drawn(pipe) -> np.ndarray:
    return np.stack(Workload(pipe, PROMPTS, call=CALL).run().samples)


def test_a_speed_up_is_kept_to(pipe, twice):
    """At most half the compute, by a schedule fitted to the model, better than fewer steps; and the
    figures are those of anyone who runs it on the same inputs."""
    assert twice.strategy == "schedule"
    assert len(twice.parameters["steps"]) == STEPS // 2
    assert twice.measured.compute <= 0.5
    _, kept = split(pipe, MORE, None, seed=0, call=CALL, batch=8)
    plain = Reference.of(kept)
    again = measured(kept, plain, "schedule", twice.parameters)
    assert twice.measured.compute == again.compute
    assert twice.measured.psnr.mean == pytest.approx(again.psnr, abs=0.01)
    assert twice.measured.psnr.p10 == pytest.approx(again.p10, abs=0.01)
    assert again.score > measured(kept, plain, "fewer_steps", {}).score


def test_what_it_was_made_for_is_in_the_profile(twice):
    """The model, the steps with their times, the guidance, and how it was measured."""
    assert twice.made_for.models[0].class_.endswith(":FluxTransformer2DModel")
    assert twice.made_for.steps == len(twice.made_for.times) == STEPS
    assert twice.made_for.latents == [[16, 16]]
    assert (twice.made_for.guidance.calls, twice.made_for.guidance.parts) == (1, 1)
    assert twice.measured.inputs == len(MORE)
    assert twice.measured.seconds > 0


def test_a_profile_goes_through_a_file(pipe, twice, tmp_path, caplog):
    """Patched with the file, the pipeline draws what it does with the profile; nothing is adapted
    in the generations it was made for."""
    file = twice.write(tmp_path / "profile.yaml")
    with autocache.patched(pipe, twice):
        expected = drawn(pipe)
    with caplog.at_level(logging.WARNING, "autocache"), autocache.patched(pipe, file) as patch:
        # The file has so many digits of a weight.
        np.testing.assert_allclose(drawn(pipe), expected, atol=1e-4)
        assert patch.stats().denoiser.share == 0.5
    assert not caplog.records


def test_the_least_compute_at_a_quality(pipe):
    """As good as was asked on what was searched, and not all of the steps."""
    found = autocache.tune(pipe, PROMPTS, min_psnr=35, budget=40, call=CALL)
    assert found.measured.compute < 1
    searched, _ = split(pipe, PROMPTS, None, seed=0, call=CALL, batch=8)
    again = measured(searched, Reference.of(searched), found.strategy, found.parameters)
    assert again.psnr >= 35


def test_all_the_time_there_is(pipe):
    """Who has an hour for each input gets all of the steps."""
    found = autocache.tune(pipe, PROMPTS, time=3600, budget=50, call=CALL)
    assert found.parameters["steps"] == list(range(STEPS))
    assert found.measured.psnr.p10 == 120


def test_other_strategies_are_searched_where_they_are_named(pipe):
    """The best of them, within the compute."""
    found = autocache.tune(pipe, PROMPTS, speedup=1.8, strategies=["fora"], budget=22, call=CALL)
    assert found.strategy == "fora"
    assert found.measured.compute <= 1 / 1.8


def test_a_published_search(pipe, tmp_path):
    """MindIE's way to a range of blocks, kept in a file."""
    told = []

    class Told:
        def __init__(self, label, trials, best):
            told.append((label, trials))

        def __enter__(self):
            return lambda study, trial: None

        def __exit__(self, *raised):
            pass

    found = autocache.tune(
        pipe,
        PROMPTS,
        speedup=1.1,
        search="dit_block",
        call=CALL,
        storage=tmp_path / "s.db",
        progress=Told,
        starts=(0,),
    )
    assert found.strategy == "dit_block"
    assert found.measured.compute < 1
    assert next(label for label, _ in told) == "dit_block: places"


@pytest.mark.parametrize("before", [None, "fora"])
def test_the_pipeline_is_left_as_it_was(pipe, before):
    """Patched or not; and what it is patched with has no part in the search."""
    whole = drawn(pipe)
    patch = autocache.patch(pipe, before) if before else None
    expected = drawn(pipe)
    found = autocache.tune(pipe, PROMPTS, speedup=2, budget=30, call=CALL, seed=1)
    assert autocache.is_patched(pipe) == (before is not None)
    np.testing.assert_array_equal(drawn(pipe), expected)
    assert found.measured.compute == 0.5
    if patch:
        patch.unpatch()
    np.testing.assert_array_equal(drawn(pipe), whole)


@pytest.mark.parametrize(("count", "kept"), [(2, 2), (5, 5), (6, 2), (13, 4)])
def test_held_out_is_apart(pipe, count, kept):
    """A third of the inputs, and of few all, but never the same noise."""
    inputs = held_out(count, 1)
    searched, measured = split(pipe, inputs, None, seed=3, call={}, batch=8)
    assert len(measured.inputs) == kept
    assert set(searched.inputs) | set(measured.inputs) == set(inputs)
    if count > kept:
        assert not set(searched.inputs) & set(measured.inputs)
    noise = [set(range(one.seed, one.seed + len(one.inputs))) for one in (searched, measured)]
    assert not noise[0] & noise[1]


def test_held_out_may_be_given(pipe):
    """Then all of the inputs are searched on."""
    searched, kept = split(pipe, ["a"] * 7, ["b", "c"], seed=0, call={}, batch=2)
    assert len(searched.inputs) == 7
    assert kept.inputs == ["b", "c"]
    assert kept.seed > 7
    assert kept.batch == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "one of speedup, min_psnr and time; given: none"),
        ({"speedup": 2, "min_psnr": 40}, "given: speedup and min_psnr"),
        ({"speedup": 1}, "a number above 1"),
        ({"speedup": float("nan")}, "a number above 1"),
        ({"min_psnr": -3}, "a number above 0"),
        ({"speedup": 2, "budget": 5}, "budget=5: a search takes about"),
        ({"speedup": 2, "strategies": []}, "at least one"),
        ({"speedup": 2, "strategies": "schedule"}, "expected a list"),
        ({"speedup": 2, "stack": "x"}, "stack: only a published search"),
        ({"min_psnr": 40, "search": "dit_block"}, "wants a speedup"),
        ({"speedup": 2, "search": "dit_block", "budget": 50}, "whatever the budget"),
        ({"speedup": 2, "search": "dit_blok"}, "'dit_block'"),
    ],
)
def test_what_cannot_be_asked(pipe, asked, message):
    """Said before anything is drawn but what a search wants to know, and nothing stays patched."""
    with pytest.raises(ParameterError, match=message):
        autocache.tune(pipe, PROMPTS, call=CALL, **asked)
    assert not autocache.is_patched(pipe)


def test_unknown_strategies_are_named(pipe):
    """With the nearest there is."""
    with pytest.raises(UnknownStrategyError, match="schedule"):
        autocache.tune(pipe, PROMPTS, call=CALL, speedup=2, strategies=["shedule"])


def test_a_quality_that_nothing_has(pipe):
    """The best there was is told."""
    with pytest.raises(ParameterError, match=r"min_psnr=500: the best that was found has \d+"):
        autocache.tune(pipe, PROMPTS[:1], call=CALL, min_psnr=500, budget=20)


def test_a_compute_that_nothing_comes_down_to(pipe):
    """The least there was is told."""
    with pytest.raises(ParameterError, match="the least was"):
        autocache.tune(pipe, PROMPTS[:1], call=CALL, speedup=50, strategies=["invariant"], budget=6)


class TwoOutputs(diffusers.FluxTransformer2DModel):
    """A denoiser that says more than the scheduler hears of."""

    @functools.wraps(diffusers.FluxTransformer2DModel.forward)
    def forward(self, *args, **kwargs):
        (output,) = super().forward(*args, **kwargs)
        return output, output.mean()


def test_steps_that_cannot_be_followed(pipe, caplog, monkeypatch):
    """`auto` is searched by its parameters, or what else is named, and the log says why."""
    monkeypatch.setattr(pipe.transformer, "__class__", TwoOutputs)
    with caplog.at_level(logging.WARNING, "autocache"):
        found = autocache.tune(pipe, PROMPTS[:1], call=CALL, speedup=2, budget=14)
    assert found.strategy == "auto"
    assert found.measured.compute <= 0.5
    said = [record.message for record in caplog.records if "no schedule" in record.message]
    assert len(said) == 1
    assert "returns 2 tensors" in said[0]
    assert "auto" in said[0]
    with caplog.at_level(logging.WARNING, "autocache"):
        asked = ["schedule", "fora"]
        found = autocache.tune(
            pipe, PROMPTS[:1], call=CALL, speedup=1.8, strategies=asked, budget=20
        )
    assert found.strategy == "fora"
    assert "; fora is searched instead" in caplog.records[-1].message


def test_the_cost_is_told_first(pipe, caplog, capsys):
    """In the log, or with bars on standard error; and no more trials than it says."""
    trials = []

    class Told:
        def __init__(self, label, trials, best):
            self.best = best

        def __enter__(self):
            return lambda study, trial: trials.append(self.best(study))

        def __exit__(self, *raised):
            pass

    with caplog.at_level(logging.INFO, "autocache"):
        autocache.tune(pipe, PROMPTS, call=CALL, speedup=2, budget=26, progress=Told)
    cost = caplog.records[0].message
    assert cost.startswith("tune: 2 times less compute; about 26 full generations: 11 trials")
    assert len(trials) == 11
    assert all(words.startswith("best ") and words.endswith(" dB") for words in trials)
    assert capsys.readouterr().err == ""
