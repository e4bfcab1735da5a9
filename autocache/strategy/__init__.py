"""The strategies by name; each file is one recipe."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from autocache.errors import UnknownStrategyError
from autocache.strategy.synonyms import strategy_hint

if TYPE_CHECKING:
    from autocache.strategy.info import StrategyInfo
    from autocache.strategy.recipe import Strategy

_HOME = {
    "adacache": "AdaCache",
    "adastep": "AdaStep",
    "attention": "Attention",
    "auto": "Auto",
    "customcache": "CustomCache",
    "dbcache": "DBCache",
    "deepcache": "DeepCache",
    "dicache": "DiCache",
    "dit_block": "DitBlock",
    "easycache": "EasyCache",
    "fastercache": "FasterCache",
    "fbcache": "FBCache",
    "fewer_steps": "FewerSteps",
    "fora": "Fora",
    "invariant": "Invariant",
    "magcache": "MagCache",
    "pab": "Pab",
    "schedule": "Schedule",
    "seacache": "SeaCache",
    "taylorseer": "TaylorSeer",
    "teacache": "TeaCache",
}


def get(name: str) -> type[Strategy]:
    """The strategy of that name.

    Raises:
        UnknownStrategyError: there is none.
    """
    known(name)
    return getattr(importlib.import_module(f"autocache.strategy.{name}"), _HOME[name])


def known(name: str) -> None:
    """Nothing, where a strategy has that name; no strategy is imported for it.

    Raises:
        UnknownStrategyError: none has.
    """
    if name not in _HOME:
        raise UnknownStrategyError(f"no strategy is named {name!r}{strategy_hint(name, _HOME)}")


def names() -> list[str]:
    """The names of the strategies."""
    return sorted(_HOME)


def infos() -> list[StrategyInfo]:
    """Every strategy, by name."""
    from autocache.strategy.info import info

    return [info(get(name)) for name in names()]
