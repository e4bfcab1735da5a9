"""What strategies declare as tunable, and what a trial of a study makes of it."""

from __future__ import annotations

import optuna
import pytest

import autocache
from autocache import strategy as strategies
from autocache.errors import ParameterError, UnknownStrategyError
from autocache.spec import registry
from autocache.spec.bind import Bound, bind
from autocache.strategy.tunable import OneOf, Pair, Range
from autocache.tuning.space import start, suggest, suggest_strategy
from tiny import NAMES, build, pairs

FIXED = {"invariant", "schedule"}
"""The one is exact, and the other's steps are found by a search of their own."""
TUNABLE = [name for name in strategies.names() if name not in FIXED]
CALIBRATED = {
    "customcache": {"coefficients": (1.0, 0.0)},
    "magcache": {"ratios": [1.0, 1.1, 1.0]},
    "teacache": {"coefficients": (1.0, 0.0)},
}
"""Tables that no tiny model has."""


@pytest.fixture(scope="module")
def bound() -> dict[str, Bound]:
    models = {name: build(name)[0] for name in NAMES}
    return {name: bind(registry.resolve(None, model), model) for name, model in models.items()}


def trials(count: int):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return (study.ask() for _ in range(count))


def test_every_strategy_says_what_to_vary():
    """Only those without a choice have an empty space, and each space names real parameters."""
    for name in strategies.names():
        chosen = strategies.get(name)
        assert bool(chosen.tunable) == (name not in FIXED), name
        assert set(chosen.tunable) <= set(chosen.model_fields), name


@pytest.mark.parametrize("name", TUNABLE)
def test_a_space_holds_the_default(name):
    """What a strategy does without parameters is among what a search tries."""
    chosen = strategies.get(name)
    for parameter, tunable in chosen.tunable.items():
        default = chosen.model_fields[parameter].get_default(call_default_factory=True)
        if isinstance(tunable, OneOf):
            assert default in tunable.values
            continue
        spans = [tunable] if isinstance(tunable, Range) else [tunable.first, tunable.second]
        values = default if isinstance(default, tuple) else (default,) * len(spans)
        for span, value in zip(spans, values, strict=True):
            # A default of None is the model's own, and what usually suits stands for it.
            assert (value is None) == (span.usual is not None), parameter
            begin, (low, high) = span.start(value, 60, 50), span.ends(60, 50)
            assert value is None or begin == value, parameter
            assert low <= begin <= high, parameter


@pytest.mark.parametrize(("model", "name"), pairs(TUNABLE))
@pytest.mark.parametrize("steps", [4, 28])
def test_suggestions_are_valid(bound, model, name, steps):
    """Whatever is drawn, the strategy takes it, on small models and in short generations too."""
    chosen, on = strategies.get(name), bound[model]
    config = dict(on.model.config)
    for trial in trials(25):
        drawn = suggest(trial, name, blocks=on.block_count, steps=steps)
        assert set(drawn) == set(chosen.tunable)
        assert chosen.create(**drawn, **CALIBRATED.get(name, {})).recipes(on, config)


@pytest.mark.parametrize("name", TUNABLE)
@pytest.mark.parametrize(("blocks", "steps"), [(6, 8), (57, 50)])
def test_the_start_is_a_trial_of_the_space(name, blocks, steps):
    """Enqueued as it is, the start gives the same parameters back and leaves none to be drawn."""
    begin = start(name, blocks=blocks, steps=steps)
    drawn = suggest(optuna.trial.FixedTrial(begin), name, blocks=blocks, steps=steps)
    strategies.get(name).create(**drawn)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(begin)
    trial = study.ask()
    assert suggest_strategy(trial, ["invariant", name]) == name
    assert suggest(trial, name, blocks=blocks, steps=steps) == drawn
    assert trial.params == begin


def test_a_start_comes_near_the_speed_up():
    """Where a parameter says how fast it will be, a search for a speed-up begins there."""
    size = {"blocks": 57, "steps": 28, "speedup": 3.0}
    assert start("auto", **size)["auto.speedup"] == 3.0
    assert start("fewer_steps", **size)["fewer_steps.ratio"] == pytest.approx(1 / 3)
    assert start("fora", **size)["fora.interval"] == 3
    assert start("fora", **{**size, "speedup": 20.0})["fora.interval"] == 8
    assert start("fbcache", **size)["fbcache.threshold"] == 0.08


def test_a_start_of_ones_own():
    """Given parameters go before the defaults, and one that no search varies is refused."""
    size = {"blocks": 57, "steps": 28}
    begin = start("dit_block", {"blocks": (3, 20), "step_interval": 4}, **size)
    trial = optuna.trial.FixedTrial(begin)
    drawn = suggest(trial, "dit_block", **size)
    assert drawn == {"step_start": 6, "step_interval": 4, "blocks": (3, 20)}
    with pytest.raises(ParameterError, match="did you mean 'step_interval'"):
        start("dit_block", {"step_intervall": 4}, **size)


def test_shares_follow_the_model_and_the_generation():
    """A share of blocks or steps becomes a whole number of them; a pair never crosses."""
    blocks = Pair(Range(0.0, 0.9, of="blocks"), Range(0.1, 1.0, of="blocks"))
    assert Range(0.0, 0.5, of="steps").ends(57, 28) == (0, 14)
    assert Range(0.0, 0.5, of="blocks", least=1).ends(57, 28) == (1, 28)
    assert blocks.first_ends(3, 28) == (0, 2)
    assert blocks.second_ends(2, 3, 28) == (3, 3)


def test_strategies_share_a_study():
    """A trial draws a strategy and the parameters of that one alone, under its name."""
    names = ["fora", "fbcache"]
    tried = set()
    for trial in trials(20):
        name = suggest_strategy(trial, names)
        suggest(trial, name, blocks=6, steps=8)
        tried.add(name)
        assert {key.split(".")[0] for key in trial.params} == {"strategy", name}
    assert tried == set(names)


def test_unknown_and_missing_strategies_are_refused():
    """A wrong name is told with the nearest one before any trial runs."""
    trial = optuna.trial.FixedTrial({})
    with pytest.raises(UnknownStrategyError, match="did you mean 'fora'"):
        suggest_strategy(trial, ["forra"])
    with pytest.raises(ParameterError, match="no strategies to search"):
        suggest_strategy(trial, [])


def test_a_suggestion_patches():
    """What is suggested goes to `patch` as it is."""
    model, _ = build("FluxTransformer2DModel")
    drawn = suggest(next(trials(1)), "dit_block", blocks=6, steps=8)
    with autocache.patched(model, "dit_block", **drawn) as patch:
        assert patch.strategy.name == "dit_block"
