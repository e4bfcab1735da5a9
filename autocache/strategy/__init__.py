"""The strategies by name; each file is one recipe."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.errors import UnknownStrategyError, nearest

if TYPE_CHECKING:
    from autocache.strategy.recipe import Strategy

_HOME = {"attention": "Attention", "dit_block": "DitBlock", "teacache": "TeaCache"}


@dataclass(frozen=True)
class StrategyInfo:
    """One strategy: its name, what it does in a sentence, and its parameters with defaults."""

    name: str
    summary: str
    parameters: dict[str, Any]


def get(name: str) -> type[Strategy]:
    """The strategy of that name.

    Raises:
        UnknownStrategyError: there is none.
    """
    if name not in _HOME:
        raise UnknownStrategyError(f"no strategy is named {name!r}{nearest(name, _HOME)}")
    return getattr(importlib.import_module(f"autocache.strategy.{name}"), _HOME[name])


def names() -> list[str]:
    """The names of the strategies."""
    return sorted(_HOME)


def infos() -> list[StrategyInfo]:
    """Every strategy, by name."""
    found = [get(name) for name in sorted(_HOME)]
    return [
        StrategyInfo(
            strategy.name,
            (strategy.__doc__ or "").strip().splitlines()[0],
            {key: field.default for key, field in strategy.model_fields.items()},
        )
        for strategy in found
    ]
