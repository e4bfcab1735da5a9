"""Searching among strategies on a live pipeline."""

from __future__ import annotations

import dataclasses
import itertools
import logging

import diffusers
import numpy as np
import pytest
import torch

import autocache
import tiny
from autocache import demo
from autocache.demo.prompts import held_out
from autocache.errors import AutocacheError, DoesNotApplyError, UnknownStrategyError
from autocache.strategy.taylorseer import TaylorSeer
from autocache.strategy.tunable import OneOf
from autocache.tuning.applicable import applicable
from autocache.tuning.candidate import Candidate
from autocache.tuning.reference import Reference
from autocache.tuning.strategies import (
    best,
    best_in_words,
    candidates,
    front,
    measured,
    search_strategies,
)
from autocache.tuning.workload import Workload

STEPS = 6
NAMES = ["fora", "fewer_steps", "fbcache"]


@pytest.fixture(scope="module")
def workload() -> Workload:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": STEPS}
    return Workload(pipe, held_out(1, 0), call=call)


@pytest.fixture(scope="module")
def plain(workload) -> Reference:
    return Reference.of(workload)


def test_the_reference_is_the_plain_run(workload, plain):
    """The same samples and compute as without any patch, and the size of the model."""
    drawn = workload.run(count=True)
    assert all(np.array_equal(a, b) for a, b in zip(plain.samples, drawn.samples, strict=True))
    assert plain.compute == drawn.compute
    model = workload.denoisers[0]
    stacks = len(model.transformer_blocks) + len(model.single_transformer_blocks)
    assert (plain.steps, plain.blocks) == (STEPS, stacks)
    assert plain.psnr(drawn.samples) == [float("inf")]


def test_a_search_returns_what_nothing_beats(workload, plain):
    """Cheapest first, better and better, and each as good as a run of one's own finds it."""
    studies = []
    found = search_strategies(
        workload, NAMES, trials=6, reference=plain, tell=lambda study, _: studies.append(study)
    )
    tried = candidates(studies[-1])
    assert {one.strategy for one in tried} == set(NAMES)
    for cheaper, better in itertools.pairwise(found):
        assert cheaper.compute < better.compute
        assert cheaper.score < better.score
    for one in tried:
        assert any(kept.compute <= one.compute and kept.score >= one.score for kept in found)
    again = measured(workload, plain, found[0].strategy, found[0].parameters)
    assert dataclasses.replace(again, parameters={}) == dataclasses.replace(found[0], parameters={})
    assert found[0].compute < 0.7
    assert not autocache.is_patched(workload.pipe)


def test_strategies_are_first_tried_as_they_are(workload, plain):
    """The first trial of each is its default, which the study's best is never below."""
    studies = []
    search_strategies(
        workload, NAMES[:2], trials=2, reference=plain, tell=lambda study, _: studies.append(study)
    )
    fora, fewer = candidates(studies[-1])
    assert fora.parameters == {"interval": 3, "countdown": False, "warmup_steps": 0}
    assert fewer.parameters == {"ratio": 0.5}
    assert fewer.compute == pytest.approx(0.5)


@pytest.mark.parametrize("asked", [{"speedup": 1.8}, {"min_psnr": 30.0}])
def test_what_has_a_limit_is_not_aimed_at(workload, plain, asked):
    """With a limit on the one the study looks for the best of the other that keeps to it."""
    studies = []

    def tell(study, _):
        studies.append(study)

    names = ["fewer_steps", "invariant"]
    search_strategies(workload, names, trials=4, reference=plain, tell=tell, **asked)
    study = studies[-1]
    wanted = best(candidates(study), **asked)
    assert wanted is not None
    assert study.best_trial.user_attrs["candidate"]["compute"] == wanted.compute


def test_starts_of_ones_own_are_tried_after_those_near_the_speed_up(workload, plain):
    """What is known to be good can be given; a strategy that is not searched is left out of it."""
    studies = []
    search_strategies(
        workload,
        ["fewer_steps"],
        trials=2,
        speedup=3.0,
        reference=plain,
        starts=[("fora", {"interval": 2}), ("fewer_steps", {"ratio": 0.5})],
        tell=lambda study, _: studies.append(study),
    )
    assert [one.parameters["ratio"] for one in candidates(studies[-1])] == [1 / 3, 0.5]


def test_a_search_goes_on_where_it_was(workload, plain, tmp_path, monkeypatch):
    """Nothing that is in the storage is drawn again, and another search is refused there."""
    given = {"storage": tmp_path / "study.log", "reference": plain, "speedup": 2.0}
    first = search_strategies(workload, NAMES, trials=4, **given)
    drawn = []
    run = Workload.run
    monkeypatch.setattr(Workload, "run", lambda *a, **k: drawn.append(1) or run(*a, **k))
    assert search_strategies(workload, NAMES, trials=4, **given) == first
    assert not drawn
    search_strategies(workload, NAMES, trials=5, **given)
    assert len(drawn) <= 1
    with pytest.raises(AutocacheError, match="searches something else: asked was"):
        search_strategies(workload, NAMES, trials=5, **{**given, "speedup": 3.0})


def test_the_same_parameters_are_run_once(workload, plain, monkeypatch):
    """A strategy without any choice is drawn a single time, however many trials there are."""
    drawn = []
    run = Workload.run
    monkeypatch.setattr(Workload, "run", lambda *a, **k: drawn.append(1) or run(*a, **k))
    found = search_strategies(workload, ["fewer_steps", "invariant"], trials=6, reference=plain)
    assert len(drawn) < 6
    assert found[-1].strategy == "invariant"
    assert (found[-1].compute, found[-1].psnr) == (pytest.approx(1, abs=0.05), 120)


def test_a_patched_pipeline_is_patched_again(workload, plain):
    """The search does not see the user's own patch, and leaves it at work, also on an error."""
    with autocache.patched(workload.pipe, "auto", speedup=2) as patch:
        before = workload.run().samples
        found = search_strategies(workload, ["invariant"], trials=1, reference=plain)
        assert found[0].psnr == 120
        with pytest.raises(KeyboardInterrupt):
            search_strategies(workload, ["fora"], trials=2, reference=plain, tell=interrupt)
        patch.reset()
        after = workload.run().samples
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert patch.stats().denoiser.share == 0.5
    assert not autocache.is_patched(workload.pipe)
    with pytest.raises(KeyboardInterrupt):
        search_strategies(workload, ["fora"], trials=2, reference=plain, tell=interrupt)
    assert not autocache.is_patched(workload.pipe)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_candidates_that_skip_nothing_are_no_news(workload, plain, caplog):
    """Warnings that a strategy does nothing are for its users, not for a search."""
    with caplog.at_level(logging.WARNING, "autocache"):
        search_strategies(workload, ["invariant"], trials=1, reference=plain)
        Reference.of(workload)
    assert "skipped nothing" not in caplog.text


def test_what_does_not_apply_is_left_out(workload, plain, caplog):
    """The log says why; where nothing is left, an error does."""
    with caplog.at_level(logging.WARNING, "autocache"):
        found = search_strategies(workload, ["deepcache", "invariant"], trials=1, reference=plain)
    assert [one.strategy for one in found] == ["invariant"]
    assert "deepcache is left out of the search" in caplog.text
    with pytest.raises(DoesNotApplyError, match="deepcache: "):
        search_strategies(workload, ["deepcache"], trials=1)
    with pytest.raises(UnknownStrategyError, match="did you mean 'fora'"):
        search_strategies(workload, ["forra"], trials=1)


def test_choices_that_do_not_apply_are_left_out():
    """On a UNet there is no stack to forecast; what it has is searched all the same."""
    unet = tiny.build("UNet2DConditionModel")[0]
    scope = applicable(unet, ["taylorseer"])["taylorseer"]["scope"]
    assert scope == OneOf(("submodules", "output"))
    stacked = tiny.build("DiTTransformer2DModel")[0]
    assert applicable(stacked, ["taylorseer"])["taylorseer"] == TaylorSeer.tunable


CHEAP, GOOD, EVEN, WORSE = (
    Candidate("fora", {}, 0.25, 40.0, 36.0),
    Candidate("fora", {}, 0.5, 50.0, 40.0),
    Candidate("fora", {}, 0.5, 46.0, 44.0),
    Candidate("fora", {}, 0.6, 44.0, 40.0),
)


def test_the_front_is_what_no_other_beats():
    """Of two that are even one is kept."""
    assert front([WORSE, GOOD, CHEAP, EVEN]) == [CHEAP, GOOD]
    assert front([]) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"speedup": 2}, GOOD),
        ({"speedup": 3}, CHEAP),
        ({"speedup": 5}, None),
        ({"min_psnr": 38}, CHEAP),
        ({"min_psnr": 45}, GOOD),
        ({"min_psnr": 60}, None),
        ({"speedup": 2, "min_psnr": 39}, CHEAP),
        ({}, GOOD),
    ],
)
def test_the_best_keeps_to_what_was_asked(asked, expected):
    """A speed asks for the best quality, a quality for the least compute."""
    assert best([WORSE, GOOD, CHEAP], **asked) == expected


def test_the_best_in_words(workload, plain):
    """As a progress bar shows it."""
    told = []

    def tell(study, _):
        told.extend([best_in_words(speedup=1.9)(study), best_in_words(min_psnr=500)(study)])

    search_strategies(workload, ["fewer_steps"], trials=1, reference=plain, tell=tell)
    assert told[0].startswith("best fewer_steps 2.00x ")
    assert told[1] == "none is good enough yet"
