"""What a tuning says it will take is what it takes; and the arithmetic of time."""

from __future__ import annotations

import re
from dataclasses import replace

import diffusers
import pytest
import torch

import autocache
from autocache import demo
from autocache.demo.prompts import held_out
from autocache.errors import ParameterError
from autocache.tuning.cost import LEAST, TRIALS, Cost
from autocache.tuning.timing import Timing

STEPS = 10
CALL = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": STEPS}


@pytest.fixture(scope="module")
def pipe() -> diffusers.FluxPipeline:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("asked", "budget"),
    [
        ({"speedup": 2.5, "batch": 1}, 40),
        ({"speedup": 2, "strategies": ["schedule", "auto"]}, 40),
    ],
)
def test_the_budget_is_what_is_spent(pipe, caplog, asked, budget):
    """Counted in denoiser calls on each input: within a quarter of what was said."""
    rows = []
    handle = pipe.transformer.proj_out.register_forward_hook(
        lambda module, given, output: rows.append(len(output))
    )
    with caplog.at_level("INFO", "autocache"):
        autocache.tune(pipe, held_out(2), budget=budget, call=CALL, **asked)
    handle.remove()
    spent = sum(rows) / STEPS
    assert 0.75 * budget < spent < 1.25 * budget
    said = int(re.search(r"about (\d+) full", caplog.records[0].message)[1])
    assert budget - 2 <= said <= budget


def test_without_a_budget_there_are_so_many_trials():
    """And with one, as many as it leaves."""
    cost = Cost(8, 4, 0.5, 1)
    assert cost.within(None).trials == TRIALS
    assert cost.within(cost.generations).trials == TRIALS
    assert cost.within(cost.generations + 40).trials == TRIALS + 10
    assert Cost(8, 4, 0.5, 2).generations == cost.generations + TRIALS * 4


def test_too_small_a_budget_is_told_what_it_takes():
    """The least with which anything is searched."""
    least = Cost(8, 4, 0.5, 1, trials=LEAST).generations
    with pytest.raises(ParameterError, match=f"budget=10: a search takes about {least} full"):
        Cost(8, 4, 0.5, 1).within(10)
    assert Cost(8, 4, 0.5, 1).within(least).trials == LEAST
    third = Cost(2, 2, 1 / 1.8, 1)
    assert third.within(replace(third, trials=LEAST).generations).trials == LEAST


def test_a_speed_up_from_two_times():
    """A fixed part, and one that goes with the denoiser's calls."""
    timing = Timing(whole=1.0, few=0.4, share=0.25)
    assert timing.fixed == pytest.approx(0.2)
    assert timing.speedup(0.6) == pytest.approx(2.0)
    assert timing.speedup(0.4) == pytest.approx(4.0)
    assert timing.speedup(5.0) == 1.0
    with pytest.raises(ParameterError, match=r"time=0.1: an input takes 0\.2 s beside"):
        timing.speedup(0.1)


def test_a_clock_that_jumped_is_no_negative_time():
    """Where the second run seems faster than it can be, all of the time is the denoiser's."""
    assert Timing(whole=1.0, few=0.1, share=0.25).speedup(0.5) == pytest.approx(2.0)
