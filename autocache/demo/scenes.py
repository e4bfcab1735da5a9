"""Captioned scenes of two objects, drawn procedurally: the data behind the bundled image pipeline.

A scene is two lit, textured objects in a spatial relation on a lit gradient background. Every word
of a caption is something the checker can read back from the pixels or the eye can see.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.demo.split import endless, is_held_out

if TYPE_CHECKING:
    import torch

IMAGE_SIZE = 64

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.14, 0.14),
    "yellow": (0.92, 0.80, 0.12),
    "green": (0.14, 0.72, 0.20),
    "cyan": (0.10, 0.78, 0.82),
    "blue": (0.14, 0.26, 0.90),
    "magenta": (0.88, 0.16, 0.80),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 8.5, "large": 12.5}
TEXTURES = ("plain", "striped", "dotted")
PLACES = {
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("above", "below"),
    "below": ("below", "above"),
}
RELATIONS = tuple(PLACES)
TINTS: dict[str, tuple[float, float, float]] = {
    "grey": (1.0, 1.0, 1.0),
    "sand": (1.10, 1.0, 0.86),
    "rose": (1.10, 0.94, 0.98),
    "sky": (0.88, 0.98, 1.10),
    "mint": (0.90, 1.08, 0.96),
}
LIGHTS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "above": (0.0, -1.0), "below": (0.0, 1.0)}


@dataclass(frozen=True)
class Thing:
    """One object of a scene, as its caption names it."""

    size: str
    texture: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.size} {self.texture} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two things, how the first lies to the second, and the light they stand in."""

    first: Thing
    relation: str
    second: Thing
    tint: str
    light: str

    @property
    def caption(self) -> str:
        """The scene in words, each object with its own place beside the relation."""
        first, second = PLACES[self.relation]
        return self._described(f"{first} ", f"{second} ")

    def _described(self, first: str, second: str) -> str:
        return (
            f"a {first}{self.first} {self.relation} a {second}{self.second} "
            f"on a {self.tint} background lit from {self.light}"
        )

    @property
    def held_out(self) -> bool:
        """True for the share of scenes (one in eight) that training never draws."""
        return is_held_out(self._described("", ""))


def random_scene(rng: random.Random) -> Scene:
    """A scene of two objects of different colours."""
    colours = rng.sample(list(COLOURS), 2)
    first, second = (
        Thing(rng.choice(list(SIZES)), rng.choice(TEXTURES), colour, rng.choice(SHAPES))
        for colour in colours
    )
    return Scene(
        first, rng.choice(RELATIONS), second, rng.choice(list(TINTS)), rng.choice(list(LIGHTS))
    )


def scenes(seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Endless scenes, either those of training or those training never saw."""
    return endless(random_scene, seed, held_out=held_out)


def parse(caption: str) -> Scene:
    """The scene a caption describes.

    Raises:
        ValueError: the caption is not of the form `Scene.caption` writes.
    """
    words = caption.split()
    try:
        first, rest = Thing(*words[2:6]), words[6:]
        relation = " ".join(rest[:2]) if rest[1] == "of" else rest[0]
        rest = rest[len(relation.split()) :]
        scene = Scene(first, relation, Thing(*rest[2:6]), rest[8], rest[12])
    except (IndexError, TypeError):
        scene = None
    if scene is None or scene.caption != caption:
        example = random_scene(random.Random(0)).caption
        raise ValueError(f"not a scene caption: {caption!r}; expected the form {example!r}")
    return scene


def shape_mask(shape: str, dx: torch.Tensor, dy: torch.Tensor, radius) -> torch.Tensor:
    """Coverage in [0, 1] of a shape of equal area for equal `radius`, anti-aliased over one pixel.

    `dx`, `dy` are pixel offsets from the centre, y pointing down; `radius` broadcasts with them.
    """
    import torch

    if shape == "circle":
        distance = torch.sqrt(dx * dx + dy * dy) - radius
    elif shape == "square":
        distance = torch.maximum(dx.abs(), dy.abs()) - radius * 0.886
    elif shape == "triangle":
        below = dy - 0.3 * radius
        distance = torch.maximum(0.866 * dx.abs() - 0.5 * below, below) - radius * 0.70
    else:
        arm, half = radius * 1.12, radius * 0.40
        across = torch.maximum(dx.abs() - arm, dy.abs() - half)
        along = torch.maximum(dx.abs() - half, dy.abs() - arm)
        distance = torch.minimum(across, along)
    return (0.5 - distance).clamp(0.0, 1.0)


def _texture(texture: str, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """Brightness factor of a texture; its hue stays the object's own."""
    import torch

    if texture == "striped":
        wave = torch.sin((dx + dy) * 1.05)
        return 0.74 + 0.26 * (wave * 3).clamp(-1, 1)
    if texture == "dotted":
        wave = torch.cos(dx * 1.05) * torch.cos(dy * 1.05)
        return 1.0 - 0.5 * ((wave - 0.35) * 5).clamp(0, 1)
    return torch.ones_like(dx)


def _centres(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    """Centres in pixels: apart along the relation's axis, loosely aligned on the other."""
    near, far = rng.uniform(16, 21), rng.uniform(43, 48)
    if scene.relation in ("right of", "below"):
        near, far = far, near
    side = rng.uniform(23, 41)
    sides = [min(48.0, max(16.0, side + rng.uniform(-8, 8))) for _ in range(2)]
    if scene.relation in ("left of", "right of"):
        return [(near, sides[0]), (far, sides[1])]
    return [(sides[0], near), (sides[1], far)]


def canvas() -> tuple[torch.Tensor, torch.Tensor]:
    """The x and y of every pixel's centre, each (64, 64), y pointing down."""
    import torch

    axis = torch.arange(IMAGE_SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def background(tint: str, light: str, rng: random.Random) -> torch.Tensor:
    """A (3, 64, 64) background that brightens towards its light."""
    import torch

    (x, y), (lx, ly) = canvas(), LIGHTS[light]
    ramp = ((x - 32) * lx + (y - 32) * ly) / 32
    base = rng.uniform(0.38, 0.60)
    glow = torch.exp(-((x - 32 - 26 * lx) ** 2 + (y - 32 - 26 * ly) ** 2) / 900)
    brightness = base + 0.16 * ramp + rng.uniform(0.08, 0.18) * glow
    return brightness * torch.tensor(TINTS[tint])[:, None, None]


def paint(
    image: torch.Tensor, thing: Thing, centre: tuple[float, float], light: str, rng: random.Random
) -> torch.Tensor:
    """The (3, 64, 64) picture with a lit thing drawn around `centre`, in pixels."""
    import torch

    (x, y), (lx, ly) = canvas(), LIGHTS[light]
    radius = SIZES[thing.size] * rng.uniform(0.94, 1.06)
    dx, dy = x - centre[0], y - centre[1]
    lit = 0.92 + 0.16 * (dx * lx + dy * ly) / radius
    colour = torch.tensor(COLOURS[thing.colour])[:, None, None]
    colour = colour * (lit * _texture(thing.texture, dx, dy))
    return torch.lerp(image, colour, shape_mask(thing.shape, dx, dy, radius))


def render(batch: list[Scene], rng: random.Random) -> torch.Tensor:
    """Draw scenes as a (len(batch), 3, 64, 64) float tensor in [0, 1]."""
    import torch

    images = []
    for scene in batch:
        image = background(scene.tint, scene.light, rng)
        for thing, centre in zip((scene.first, scene.second), _centres(scene, rng), strict=True):
            image = paint(image, thing, centre, scene.light, rng)
        images.append(image.clamp(0, 1))
    return torch.stack(images)
