"""The values a search tries: what strategies declare as tunable, as suggestions of Optuna.

A study may try several strategies. Each trial draws one of them and then its parameters, whose
names in the study begin with that of the strategy, as in "fora.interval".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autocache import strategy as strategies
from autocache.errors import ParameterError, nearest
from autocache.strategy.tunable import OneOf, Pair, Range

if TYPE_CHECKING:
    import optuna

    from autocache.strategy.tunable import Tunable

STRATEGY = "strategy"
"""The parameter of a study that says which strategy a trial tries."""


def suggest_strategy(trial: optuna.trial.BaseTrial, names: Sequence[str]) -> str:
    """The strategy that a trial of several tries.

    Raises:
        UnknownStrategyError: there is none of such a name.
        ParameterError: no strategy is named.
    """
    if not names:
        raise ParameterError("there are no strategies to search among; name at least one")
    for name in names:
        strategies.get(name)
    return trial.suggest_categorical(STRATEGY, list(names))


def suggest(
    trial: optuna.trial.BaseTrial,
    name: str,
    *,
    blocks: int,
    steps: int,
    tunable: Mapping[str, Tunable] | None = None,
) -> dict[str, Any]:
    """Parameters of a strategy for `autocache.patch`, as a trial suggests them.

    Args:
        trial: of a study, or `optuna.trial.FixedTrial(params)` to read those of a finished one.
        name: the strategy.
        blocks: of the model, over all its stacks; 0 where it has none.
        steps: of the generation.
        tunable: what to vary, by default all that the strategy declares.

    Raises:
        UnknownStrategyError: there is none of that name.
    """
    varied = strategies.get(name).tunable if tunable is None else tunable
    return {
        parameter: _suggest(trial, f"{name}.{parameter}", values, blocks, steps)
        for parameter, values in varied.items()
    }


def start(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    blocks: int,
    steps: int,
    speedup: float | None = None,
) -> dict[str, Any]:
    """A trial to begin with: a strategy's name and parameters, as they are called in a study.

    They are its defaults, with a speed-up where that can be said beforehand; `parameters` goes
    before both.

    Raises:
        UnknownStrategyError: there is none of that name.
        ParameterError: one of the parameters is none that a search varies.
    """
    chosen = strategies.get(name)
    given = dict(parameters or {})
    for parameter in given:
        if parameter not in chosen.tunable:
            near = nearest(parameter, chosen.tunable)
            raise ParameterError(f"a search does not vary {parameter!r} of {name}{near}")
    trial: dict[str, Any] = {STRATEGY: name}
    for parameter, tunable in chosen.tunable.items():
        default = chosen.model_fields[parameter].get_default(call_default_factory=True)
        value = given.get(parameter, tunable.start(default, blocks, steps, speedup))
        trial |= _named(f"{name}.{parameter}", value, isinstance(tunable, Pair))
    return trial


def _named(name: str, value: Any, pair: bool) -> Mapping[str, Any]:
    return {f"{name}.first": value[0], f"{name}.second": value[1]} if pair else {name: value}


def _suggest(
    trial: optuna.trial.BaseTrial, name: str, tunable: Tunable, blocks: int, steps: int
) -> Any:
    if isinstance(tunable, OneOf):
        return trial.suggest_categorical(name, tunable.values)
    if isinstance(tunable, Range):
        return _number(trial, name, tunable, *tunable.ends(blocks, steps))
    ends = tunable.first_ends(blocks, steps)
    first = _number(trial, f"{name}.first", tunable.first, *ends)
    ends = tunable.second_ends(first, blocks, steps)
    return first, _number(trial, f"{name}.second", tunable.second, *ends)


def _number(
    trial: optuna.trial.BaseTrial, name: str, span: Range, low: float, high: float
) -> float:
    if span.whole or span.of is not None:
        return trial.suggest_int(name, int(low), int(high), log=span.log)
    return trial.suggest_float(name, low, high, log=span.log)
