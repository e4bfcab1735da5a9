"""Numbers of steps that mean a share of a generation, in a generation of another length."""

from __future__ import annotations


def scaled(count: int, of: int | None, total: int | None) -> int:
    """As large a share of `total` steps as `count` is of `of` steps.

    One stays one: it is an end of the generation and no share of it. Without both lengths nothing
    changes.
    """
    if not of or not total or of == total or count <= 1:
        return count
    return max(1, round(count * total / of))


def window(
    first: int, last: int | None, of: int | None, total: int | None
) -> tuple[int, int | None]:
    """A window of steps, both ends included, over the same share of `total` steps."""
    if not of or not total or of == total:
        return first, last
    end = None if last is None else round((last + 1) * total / of) - 1
    return round(first * total / of), end
