"""Captioned scenes of one object, drawn procedurally: the data behind the Stable Diffusion one.

A scene is one lit object at one of nine places on a lit, tinted gradient. Every word of a caption
that varies is something the checker reads back from the pixels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from autocache.demo.scenes import (
    COLOURS,
    LIGHTS,
    SHAPES,
    SIZES,
    TINTS,
    Thing,
    background,
    paint,
)
from autocache.demo.split import chosen, endless, is_held_out

if TYPE_CHECKING:
    import torch

ROWS = {"top": 17.0, "middle": 32.0, "bottom": 47.0}
"""Centre of each row in pixels from the upper edge."""
COLUMNS = {"left": 17.0, "center": 32.0, "right": 47.0}
"""Centre of each column in pixels from the left edge."""
WORDS = (ROWS, COLUMNS, SIZES, COLOURS, SHAPES, TINTS, LIGHTS)
"""The words of a scene, in the order of its fields."""


@dataclass(frozen=True)
class Scene:
    """One thing, its place and the light it stands in."""

    row: str
    column: str
    size: str
    colour: str
    shape: str
    tint: str
    light: str

    @property
    def caption(self) -> str:
        """The scene in words."""
        return (
            f"a {self.row} {self.column} {self.size} {self.colour} {self.shape} "
            f"on a {self.tint} background lit from {self.light}"
        )

    @property
    def held_out(self) -> bool:
        """True for the share of scenes that training never draws."""
        return is_held_out(self.caption)


def random_scene(rng: random.Random) -> Scene:
    """A scene of one object, every word drawn evenly."""
    return Scene(*(rng.choice(list(words)) for words in WORDS))


def scenes(seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Endless scenes, either those of training or those training never saw."""
    return endless(random_scene, seed, held_out=held_out)


def held_out(count: int, seed: int = 0) -> list[str]:
    """`count` different captions of the held-out split, the same ones for the same seed.

    Raises:
        ValueError: the split has fewer captions than `count`.
    """
    return chosen((Scene(*words).caption for words in product(*WORDS)), count, seed)


def parse(caption: str) -> Scene:
    """The scene a caption describes.

    Raises:
        ValueError: the caption is not of the form `Scene.caption` writes.
    """
    words = caption.split()
    named = [*words[1:6], words[8], words[12]] if len(words) == 13 else []
    scene = Scene(*named) if named else None
    if scene is None or scene.caption != caption:
        example = random_scene(random.Random(0)).caption
        raise ValueError(f"not a scene caption: {caption!r}; expected the form {example!r}")
    return scene


def render(batch: list[Scene], rng: random.Random) -> torch.Tensor:
    """Draw scenes as a (len(batch), 3, 64, 64) float tensor in [0, 1]."""
    import torch

    images = []
    for scene in batch:
        image = background(scene.tint, scene.light, rng)
        centre = (COLUMNS[scene.column] + rng.uniform(-2, 2), ROWS[scene.row] + rng.uniform(-2, 2))
        thing = Thing(scene.size, "plain", scene.colour, scene.shape)
        images.append(paint(image, thing, centre, scene.light, rng).clamp(0, 1))
    return torch.stack(images)
