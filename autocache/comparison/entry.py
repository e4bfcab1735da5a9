"""What is compared: strategies as a command line or `autocache.patch` names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocache.activation_grammar import FILES, parse
from autocache.choice import choose
from autocache.errors import DoesNotApplyError, ParameterError
from autocache.tuning.identity import digest

DEFAULT = ("auto", "fbcache", "taylorseer", "teacache")
"""Strategies of different kinds that need no parameter."""

Asked = str | tuple[str, Mapping[str, Any]]
"""As the variable `AUTOCACHE` takes it, or a name with its parameters."""


@dataclass(frozen=True)
class Entry:
    """One strategy to run, its name in the table, and that of its files."""

    label: str
    key: str
    strategy: Any = None
    """As `autocache.patch` takes it; None for the pipeline as it is."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Entry("plain", "plain")


def fewer(steps: int) -> Entry:
    """The baseline: that many steps and no cache."""
    label = f"{steps} step{'' if steps == 1 else 's'}"
    return Entry(label, f"fewer_steps_{steps}", "fewer_steps", {"steps": steps})


def entries(asked: Sequence[Asked]) -> list[Entry]:
    """What is asked for, each once.

    Raises:
        UnknownStrategyError, ParameterError, ProfileError: one of them cannot be, on any model.
    """
    if isinstance(asked, str) or not asked:
        raise ParameterError(f"strategies={asked!r}: expected a list with at least one")
    found = [_entry(one) for one in asked]
    return list({one.key: one for one in found}.values())


def _entry(asked: Asked) -> Entry:
    text = asked if isinstance(asked, str) else _text(*asked)
    if isinstance(asked, str):
        request = parse(asked)
        strategy, parameters = request.strategy, request.parameters
    else:
        strategy, parameters = asked[0], dict(asked[1])
    _check(strategy, parameters)
    if text.lower().endswith(FILES):
        # A profile that was changed is another entry.
        content = Path(text).expanduser().read_text(encoding="utf-8")
        label = Path(text).stem
    else:
        content, label = "", text
    return Entry(label, f"{_file_name(label)}_{digest([text, content])}", strategy, parameters)


def _text(name: str, parameters: Mapping[str, Any]) -> str:
    given = ",".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name}:{given}" if given else name


def _check(strategy: Any, parameters: Mapping[str, Any]) -> None:
    """Names and values are looked at before anything is drawn."""
    from autocache.activation_grammar import FOR_ALL

    own = {key: value for key, value in parameters.items() if key not in FOR_ALL}
    try:
        choose(strategy, {}, own)
    except DoesNotApplyError:  # Whether it does is for the model to say.
        return


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", label)[:60]
