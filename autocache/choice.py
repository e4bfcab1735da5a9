"""What `patch` is asked for: a strategy by name, as an object or from parts, or a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache import strategy as strategies
from autocache.activation_grammar import FILES
from autocache.errors import ParameterError
from autocache.strategy.composition import Composition
from autocache.strategy.recipe import Strategy

if TYPE_CHECKING:
    from autocache.tuning.expectations import Expectations
    from autocache.tuning.profile import Profile

DEFAULT = "auto"
"""The strategy where none is named."""


@dataclass(frozen=True)
class Chosen:
    """A strategy, and the profile it came from, if any."""

    strategy: Strategy | Composition
    profile: Profile | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    """Parameters given in place of the profile's."""

    def option(self, name: str, given: Any, default: Any) -> Any:
        """A keyword argument of `patch`: as given, else the profile's, else the default."""
        if self.profile is None or given != default:
            return given
        return self.profile.options.get(name, default)

    @property
    def label(self) -> str | None:
        """The profile in words: its file, and what was given in place of its own."""
        if self.profile is None:
            return None
        name = str(self.profile.file or "given in memory")
        changes = ", ".join(f"{key}={value}" for key, value in self.changed.items())
        return f"{name} with {changes}" if changes else name

    def expectations(self) -> Expectations | None:
        """What the profile was made for, to be held against what it is used on."""
        if self.profile is None or self.profile.made_for is None:
            return None
        from autocache.tuning.expectations import Expectations

        return Expectations(self.profile.made_for, f"profile {self.label}", self.strategy)


def choose(strategy: Any, parts: Mapping[str, Any], params: Mapping[str, Any]) -> Chosen:
    """What the arguments of `patch` ask for.

    Raises:
        UnknownStrategyError: no strategy has that name.
        ParameterError: a parameter is unknown or out of range, or things are given together that
            exclude each other.
        ProfileError: the file cannot be read or is malformed.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    if given:
        return Chosen(_custom(strategy, given, params))
    if _is_pair(strategy):
        strategy, params = strategy[0], {**strategy[1], **params}
    if _names_profile(strategy):
        from autocache.tuning.profile import Profile

        profile = strategy if isinstance(strategy, Profile) else Profile.read(strategy)
        return Chosen(profile.created(params), profile, dict(params))
    return Chosen(_strategies(DEFAULT if strategy is None else strategy, params))


def _strategies(strategy: Any, params: Mapping[str, Any]) -> Strategy | Composition:
    if not isinstance(strategy, (list, tuple)):
        return _one(strategy, params)
    if not strategy:
        raise ParameterError("the list of strategies is empty")
    first, *others = strategy
    chosen = (_one(first, params), *(_one(other, {}) for other in others))
    return Composition(chosen) if others else chosen[0]


def _one(strategy: Any, params: Mapping[str, Any]) -> Strategy:
    if isinstance(strategy, tuple) and len(strategy) == 2:
        strategy, params = strategy[0], {**strategy[1], **params}
    if _names_profile(strategy):
        raise ParameterError(
            "a profile cannot be one of several strategies; list the others in its file"
        )
    if isinstance(strategy, str):
        return strategies.get(strategy).create(**params)
    if not isinstance(strategy, Strategy):
        raise ParameterError(
            f"strategy is {strategy!r}; expected a name, a strategy object, or a profile or its "
            f"file ({' or '.join(FILES)})"
        )
    given = {name: getattr(strategy, name) for name in strategy.model_fields_set}
    return type(strategy).create(**(given | dict(params)))


def _is_pair(strategy: Any) -> bool:
    pair: Sequence[Any] = strategy if isinstance(strategy, tuple) else ()
    return len(pair) == 2 and isinstance(pair[1], Mapping)


def _names_profile(strategy: Any) -> bool:
    if isinstance(strategy, str):
        return strategy.strip().lower().endswith(FILES)
    if strategy is None or isinstance(strategy, (Strategy, list, tuple)):
        return False
    # Imported for what may be one alone: a patch by name needs nothing of tuning.
    from autocache.tuning.profile import Profile

    return isinstance(strategy, (Path, Profile))


def _custom(strategy: Any, parts: Mapping[str, Any], params: Mapping[str, Any]) -> Strategy:
    if strategy is not None:
        raise ParameterError("give either a strategy or when, where and how, not both")
    if "when" not in parts:
        raise ParameterError("a strategy from parts needs when=, the rule that decides")
    from autocache.strategy.custom import Custom

    return Custom.create(**parts, **params)
