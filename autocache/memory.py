"""The options of `patch` that are about memory: the limit, and how to keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autocache.errors import ParameterError, nearest
from autocache.runtime.encodings import LOSSY
from autocache.runtime.ledger import Ledger
from autocache.runtime.sizes import parse_bytes

LOSSLESS = ("host", "fewer")
"""What costs no quality, and is done where nothing else is asked for."""
WAYS = (*LOSSLESS, *LOSSY)


def ledger(limit: int | float | str | None, ways: str | Sequence[str] | None) -> Ledger:
    """The books of a patch with this limit, and these ways to keep to it.

    Raises:
        ParameterError: one of them cannot be understood, or there are ways and no limit.
    """
    try:
        parsed = parse_bytes(limit)
    except ValueError as error:
        raise ParameterError(f"memory_limit={limit!r}: {error}") from None
    if ways is None:
        return Ledger(parsed, LOSSLESS)
    if parsed is None:
        raise ParameterError(
            f"memory_fit={ways!r} says how to keep to a memory limit, and there is none; give one, "
            "as in memory_limit='2GiB'"
        )
    several = ways if isinstance(ways, (list, tuple)) else (ways,)
    return Ledger(parsed, _checked(tuple(several)))


def _checked(ways: tuple[Any, ...]) -> tuple[str, ...]:
    for way in ways:
        if way not in WAYS:
            raise ParameterError(f"memory_fit: {way!r} is no way to fit{nearest(str(way), WAYS)}")
    if len(set(ways)) < len(ways):
        raise ParameterError(f"memory_fit={ways!r} names the same way twice")
    if "fewer" in ways[:-1]:
        raise ParameterError(
            f"memory_fit={ways!r}: 'fewer' fits where anything does, so nothing after it would "
            "ever be tried; name it last"
        )
    return ways
