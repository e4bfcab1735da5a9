"""Read colour, shape, size and position of the objects of a picture from its pixels alone.

No learned model: a pixel belongs to an object when it is saturated, to a palette colour by its hue
(textures and light change brightness and keep hue), and a shape is the template that overlaps best.
"""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.demo.scenes import COLOURS, SHAPES, SIZES, TINTS, Scene, shape_mask

if TYPE_CHECKING:
    import torch

SATURATED = 0.45
DARKEST = 0.08
UNSATURATED = 0.35
SMALLEST_AREA = 60
LOWER = {"triangle": 0.3}
"""How far below the origin a shape is drawn around its centroid lies, in radii, where it does."""
ATTRIBUTES = (
    "colour of first",
    "colour of second",
    "shape of first",
    "shape of second",
    "size of first",
    "size of second",
    "relation",
)


@dataclass(frozen=True)
class Seen:
    """One object as read from the pixels: centre and `radius` in pixels, y pointing down.

    `overlap` is the intersection over union with the winning template, 0 to 1.
    """

    shape: str
    x: float
    y: float
    area: float
    radius: float
    overlap: float

    @property
    def size(self) -> str:
        """The size word whose radius is nearest."""
        return min(SIZES, key=lambda name: abs(SIZES[name] - self.radius))


def colour_masks(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boolean mask of the saturated pixels of each palette colour, by nearest hue."""
    import torch

    high, low = image.amax(0), image.amin(0)
    saturated = ((high - low) > SATURATED * high) & (high > DARKEST)
    red, green, blue = image
    # Atan2 on the hue circle has no branches, unlike the hexagonal hue, and is close enough to it.
    angles = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    hues = [2 * math.pi * colorsys.rgb_to_hsv(*rgb)[0] for rgb in COLOURS.values()]
    nearest = torch.stack([torch.cos(angles - hue) for hue in hues]).argmax(0)
    return {name: saturated & (nearest == index) for index, name in enumerate(COLOURS)}


def fit(mask: torch.Tensor, hidden: torch.Tensor) -> Seen:
    """The shape template that overlaps `mask` best; pixels of `hidden` count neither way."""
    import torch

    axis = torch.arange(mask.shape[-1], dtype=torch.float32) + 0.5
    y, x = axis[:, None].expand(mask.shape), axis[None, :].expand(mask.shape)
    area = float(mask.sum())
    cx, cy = float(x[mask].mean()), float(y[mask].mean())
    shift = torch.linspace(-1.8, 1.8, 5)
    offset_y, offset_x = (
        grid.reshape(1, -1, 1, 1) for grid in torch.meshgrid(shift, shift, indexing="ij")
    )
    radii = math.sqrt(area / math.pi) * torch.linspace(0.9, 1.2, 7).reshape(-1, 1, 1, 1)
    seen, visible = mask.float(), (~hidden).float()
    fits = []
    for shape in SHAPES:
        lower = LOWER.get(shape, 0.0) * radii
        template = shape_mask(shape, x - cx - offset_x, y - cy - offset_y + lower, radii) * visible
        overlap = torch.minimum(template, seen).sum((-1, -2)) / torch.maximum(template, seen).sum(
            (-1, -2)
        )
        best = int(overlap.argmax())
        row, column = divmod(best, overlap.shape[1])
        fits.append(
            Seen(
                shape,
                cx + float(offset_x[0, column]),
                cy + float(offset_y[0, column]),
                area,
                float(radii[row]),
                float(overlap[row, column]),
            )
        )
    return max(fits, key=lambda fit: fit.overlap)


def background_mask(image: torch.Tensor) -> torch.Tensor:
    """True where a (3, ...) picture in [0, 1] is too grey to be an object."""
    high, low = image.amax(0), image.amin(0)
    return (high - low) < UNSATURATED * high


def read_tint(image: torch.Tensor) -> str | None:
    """The background tint of a (3, ...) picture in [0, 1]; None where nothing is unsaturated."""
    import torch

    background = image[:, background_mask(image)]
    if background.shape[1] == 0:
        return None
    chroma = (background / background.mean(0)).median(1).values
    known = torch.tensor(list(TINTS.values()))
    known = known / known.mean(1, keepdim=True)
    return list(TINTS)[int((known - chroma).square().sum(1).argmin())]


def read(image: torch.Tensor) -> dict[str, Seen]:
    """The objects of a (3, height, width) picture in [0, 1], by colour.

    At most two: the palette colours with the largest saturated areas, each over `SMALLEST_AREA`.
    """
    image = image.float().clamp(0, 1)
    masks = colour_masks(image)
    largest = sorted(masks, key=lambda name: -int(masks[name].sum()))[:2]
    found = [name for name in largest if int(masks[name].sum()) >= SMALLEST_AREA]
    objects = {}
    for name in found:
        hidden = masks[name] & False
        for other in found:
            if other != name:
                hidden = hidden | masks[other]
        objects[name] = fit(masks[name], hidden)
    return objects


def relation(first: Seen, second: Seen) -> str:
    """How the first lies to the second, along the axis on which they are further apart."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def check(image: torch.Tensor, scene: Scene) -> dict[str, bool]:
    """Which attributes of the scene its picture shows, by the names of `ATTRIBUTES`.

    Objects are told apart by colour, so a missing colour also fails what hangs on it.
    """
    objects = read(image)
    first, second = objects.get(scene.first.colour), objects.get(scene.second.colour)
    return {
        "colour of first": first is not None,
        "colour of second": second is not None,
        "shape of first": first is not None and first.shape == scene.first.shape,
        "shape of second": second is not None and second.shape == scene.second.shape,
        "size of first": first is not None and first.size == scene.first.size,
        "size of second": second is not None and second.size == scene.second.size,
        "relation": bool(first and second and relation(first, second) == scene.relation),
    }


def share(checks: Iterable[dict[str, bool]]) -> tuple[float, dict[str, float]]:
    """Share of attributes that are right, over all of them and for each, in [0, 1]."""
    right, total = Counter(), Counter()
    for answers in checks:
        for name, answer in answers.items():
            right[name] += answer
            total[name] += 1
    each = {name: right[name] / total[name] for name in total}
    return sum(right.values()) / max(1, sum(total.values())), each
