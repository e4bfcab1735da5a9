"""Read every attribute of a scene of one object from its pixels alone.

The primitives are those of `autocache.demo.checker`; the light is where the background brightens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.demo.checker import LOWER, background_mask, read, read_tint
from autocache.demo.scenes import LIGHTS
from autocache.demo.single import COLUMNS, ROWS, Scene

if TYPE_CHECKING:
    import torch

ATTRIBUTES = ("row", "column", "size", "colour", "shape", "tint", "light")


@dataclass(frozen=True)
class SeenScene:
    """The words that fit a picture best; None for what is not there to be read."""

    row: str | None
    column: str | None
    size: str | None
    colour: str | None
    shape: str | None
    tint: str | None
    light: str | None


def _light(image: torch.Tensor) -> str | None:
    """Where the background brightens most, by the plane that fits its brightness best."""
    import torch

    there = background_mask(image)
    if int(there.sum()) < 3:
        return None
    y, x = (axis.float() for axis in torch.nonzero(there, as_tuple=True))
    plane = torch.stack([x, y, torch.ones_like(x)], 1)
    brightness = image.mean(0)[there][:, None]
    right, below, _ = torch.linalg.lstsq(plane, brightness).solution.flatten().tolist()
    return max(LIGHTS, key=lambda name: LIGHTS[name][0] * right + LIGHTS[name][1] * below)


def read_scene(image: torch.Tensor) -> SeenScene:
    """What a (3, height, width) picture in [0, 1] shows: its largest object and its background."""
    image = image.float().clamp(0, 1)
    tint, light = read_tint(image), _light(image)
    objects = read(image)
    if not objects:
        return SeenScene(None, None, None, None, None, tint, light)
    colour, seen = max(objects.items(), key=lambda item: item[1].area)
    y = seen.y - LOWER.get(seen.shape, 0.0) * seen.radius
    return SeenScene(
        min(ROWS, key=lambda name: abs(ROWS[name] - y)),
        min(COLUMNS, key=lambda name: abs(COLUMNS[name] - seen.x)),
        seen.size,
        colour,
        seen.shape,
        tint,
        light,
    )


def check(image: torch.Tensor, scene: Scene) -> dict[str, bool]:
    """Which attributes of the scene its picture shows, by the names of `ATTRIBUTES`.

    What is said of an object of another colour than the scene's counts as wrong.
    """
    seen = read_scene(image)
    right = {name: getattr(seen, name) == getattr(scene, name) for name in ATTRIBUTES}
    there = right["colour"]
    return {name: value and (there or name in ("tint", "light")) for name, value in right.items()}
