"""Prompts the bundled pipeline never saw in training."""

from __future__ import annotations

from autocache.demo.scenes import scenes


def held_out(count: int, seed: int = 0) -> list[str]:
    """`count` different captions of the held-out split, the same ones for the same seed."""
    chosen: dict[str, None] = {}
    source = scenes(seed, held_out=True)
    while len(chosen) < count:
        chosen[next(source).caption] = None
    return list(chosen)
