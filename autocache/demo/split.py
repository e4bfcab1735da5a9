"""Which captions training sees, and which are held out to judge by."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

HELD_OUT_EVERY = 8


class Captioned(Protocol):
    @property
    def held_out(self) -> bool: ...


T = TypeVar("T", bound=Captioned)


def is_held_out(caption: str) -> bool:
    """True for the share of captions (one in eight) that training never draws."""
    return zlib.crc32(caption.encode()) % HELD_OUT_EVERY == 0


def endless(draw: Callable[[random.Random], T], seed: int, *, held_out: bool) -> Iterator[T]:
    """Endless random things, either those of training or those training never saw."""
    rng = random.Random(seed)
    while True:
        thing = draw(rng)
        if thing.held_out == held_out:
            yield thing


def chosen(captions: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` of the held-out captions, the same ones for the same seed.

    Raises:
        ValueError: there are fewer than `count`.
    """
    held = [caption for caption in captions if is_held_out(caption)]
    if count > len(held):
        raise ValueError(f"{count} held-out captions asked for, there are {len(held)}")
    random.Random(seed).shuffle(held)
    return held[:count]
