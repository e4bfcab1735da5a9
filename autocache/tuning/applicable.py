"""Which strategies a pipeline can be searched with, and which of their choices it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autocache.api import patched
from autocache.errors import AutocacheError, DoesNotApplyError, ParameterError
from autocache.quiet import quiet
from autocache.strategy import get
from autocache.strategy.tunable import OneOf, Tunable

logger = logging.getLogger("autocache")

Spaces = Mapping[str, Mapping[str, Tunable]]
"""By strategy and parameter, the values to try."""


def applicable(pipe: Any, names: Sequence[str]) -> Spaces:
    """Those of the strategies that can be installed as they are by default, with their spaces.

    What else a parameter could be set to is left out where the pipeline does not take it.

    Raises:
        UnknownStrategyError: there is none of such a name.
        ParameterError: no strategy is named.
        DoesNotApplyError: none can be installed.
    """
    if not names:
        raise ParameterError("there are no strategies to search among; name at least one")
    refused: dict[str, str] = {}
    for name in dict.fromkeys(names):
        get(name)
        try:
            with patched(pipe, name):
                pass
        except AutocacheError as error:
            refused[name] = str(error)
            logger.warning("%s is left out of the search: %s", name, str(error))
    if chosen := [name for name in dict.fromkeys(names) if name not in refused]:
        return {name: _narrowed(pipe, name) for name in chosen}
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise DoesNotApplyError(f"none of the strategies can be searched: {reasons}")


def _narrowed(pipe: Any, name: str) -> Mapping[str, Tunable]:
    return {
        parameter: replace(
            tunable, values=tuple(v for v in tunable.values if _fits(pipe, name, {parameter: v}))
        )
        if isinstance(tunable, OneOf)
        else tunable
        for parameter, tunable in get(name).tunable.items()
    }


def _fits(pipe: Any, name: str, parameters: Mapping[str, Any]) -> bool:
    try:
        with quiet(), patched(pipe, name, **parameters):
            return True
    except DoesNotApplyError:
        return False
