"""schedule: the chosen steps on live models and pipelines, with and without weights."""

from __future__ import annotations

import logging

import pytest
import torch
from pipelines.tiny_pipelines import make, run

import autocache
from autocache.errors import ParameterError
from autocache.strategy.schedule import Schedule

STEPS = (0, 1, 3, 6)
TOTAL = 8
GIVEN = {"steps": STEPS, "total": TOTAL}
REUSE = [[[1.0]]] * len(STEPS)


def computed(patch, branch: str | None = None) -> list[int]:
    steps = patch.stats().steps
    chosen = [one for one in steps if branch is None or one.branch == branch]
    return [one.step for one in chosen if one.action == "computed"]


@pytest.mark.parametrize("name", ["flux", "sd"])
@pytest.mark.parametrize("weights", [None, {"0": REUSE}])
def test_just_the_chosen_steps_are_computed(name, weights):
    """On a pipeline with a spec's stacks and on a UNet; the picture is another one, and the plain
    one comes back."""
    pipe = make(name)
    plain = run(pipe, steps=TOTAL)
    with autocache.patched(pipe, "schedule", **GIVEN, weights=weights) as patch:
        drawn = run(pipe, steps=TOTAL)
        assert tuple(computed(patch)) == STEPS
    assert not torch.equal(drawn, plain)
    assert torch.equal(run(pipe, steps=TOTAL), plain)


def test_weights_of_one_are_reuse():
    """Each computed output stands until the next."""
    pipe = make("flux")
    name = _branches(pipe)[0]
    with autocache.patched(pipe, "schedule", **GIVEN, weights={name: REUSE}):
        drawn = run(pipe, steps=TOTAL)
    when, how = autocache.when.Chosen(STEPS, TOTAL), autocache.how.Reuse()
    with autocache.patched(pipe, when=when, where=autocache.where.Denoiser(), how=how):
        assert torch.equal(run(pipe, steps=TOTAL), drawn)


def _branches(pipe, **options) -> list[str]:
    with autocache.patched(pipe, "schedule", **GIVEN) as patch:
        run(pipe, steps=TOTAL, **options)
        return list(dict.fromkeys(step.branch for step in patch.stats().steps))


def test_each_guidance_branch_has_its_own_weights():
    """Other weights in one branch make another picture."""
    pipe = make("flux")
    names = _branches(pipe, guided=True)
    assert len(names) == 2
    drawn = []
    for other in (1.0, 1.1):
        weights = {names[0]: REUSE, names[1]: [[[1.0]], *[[[other]]] * 3]}
        with autocache.patched(pipe, "schedule", **GIVEN, weights=weights) as patch:
            drawn.append(run(pipe, steps=TOTAL, guided=True))
            assert all(tuple(computed(patch, name)) == STEPS for name in names)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("other", [4, 11])
def test_another_number_of_steps(caplog, other):
    """The same share of them; the weights do not hold there, which the log says once."""
    pipe = make("flux")
    weights = {_branches(pipe)[0]: REUSE}
    with (
        caplog.at_level(logging.WARNING, "autocache"),
        autocache.patched(pipe, "schedule", **GIVEN, weights=weights) as patch,
    ):
        drawn = run(pipe, steps=other)
        run(pipe, steps=other)
        expected = autocache.when.chosen.spread(STEPS, TOTAL, other)
        assert set(computed(patch)) == expected
    said = [one.message for one in caplog.records]
    assert [f"{other} steps, not {TOTAL}" in one for one in said] == [True]
    with autocache.patched(pipe, "schedule", **GIVEN):
        assert torch.equal(run(pipe, steps=other), drawn)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs 'steps': computed steps"),
        ({"steps": (0, 1)}, "needs 'total': steps of the generation"),
        ({"steps": (), "total": 4}, "must rise from 0"),
        ({"steps": (1, 2), "total": 4}, "must rise from 0"),
        ({"steps": (0, 2, 1), "total": 4}, "must rise from 0"),
        ({"steps": (0, 2, 2), "total": 4}, "must rise from 0"),
        ({"steps": (0, 4), "total": 4}, "step 4, and there are 4"),
        ({"steps": (0,), "total": 0}, "total"),
        ({**GIVEN, "weights": {"0": REUSE[:3]}}, "has 3 entries; expected one for each of the 4"),
        ({**GIVEN, "weights": {"0": [[[1, 1]], *REUSE[1:]]}}, "between 1 and 1 weights"),
        ({**GIVEN, "weights": {"0": [[], *REUSE[1:]]}}, "between 1 and 1 weights"),
        ({**GIVEN, "weights": {"0": REUSE}, "max_error": 0.1}, "give one"),
    ],
)
def test_what_does_not_fit_together(parameters, message):
    """Says what was wrong and what was expected, before anything is patched."""
    pipe = make("flux")
    with pytest.raises(ParameterError, match=message):
        autocache.patch(pipe, "schedule", **parameters)
    assert not autocache.is_patched(pipe)


def test_a_bound_on_the_error_adds_steps():
    """No step that was chosen is left out."""
    pipe = make("flux")
    with autocache.patched(pipe, "schedule", **GIVEN, max_error=0.0) as patch:
        run(pipe, steps=TOTAL)
        assert set(computed(patch)) > set(STEPS)


def test_weights_are_what_was_fitted():
    """A profile must not take them to another model."""
    assert Schedule.create(**GIVEN).fitted_parameters() == []
    assert Schedule.create(**GIVEN, weights={"0": REUSE}).fitted_parameters() == ["weights"]
