"""Byte counts as people write and read them."""

from __future__ import annotations

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def readable_bytes(count: float) -> str:
    """A byte count as people write it: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def parse_bytes(limit: int | float | str | None) -> int | None:
    """Bytes of `1048576`, `"512MiB"`, `"2 GB"`; None is no limit.

    Raises:
        ValueError: the text is no number with a known unit, or not above zero.
    """
    if limit is None:
        return None
    text = str(limit).replace(" ", "")
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    if unit not in _UNITS:
        raise ValueError(f"unknown unit {unit!r} in memory limit {limit!r}; expected e.g. '2GiB'")
    count = int(float(digits) * _UNITS[unit])
    if count <= 0:
        raise ValueError(f"memory limit must be above zero, not {limit!r}")
    return count
