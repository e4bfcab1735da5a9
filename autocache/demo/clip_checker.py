"""Read colour, shape, size, motion and background of a clip from its pixels alone.

The primitives are those of `autocache.demo.checker`: the object is the largest saturated area of
one palette colour, followed from frame to frame by its centre.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.demo.checker import colour_masks, fit, read_tint
from autocache.demo.clips import DIRECTIONS, RADII, SPEEDS, Clip

if TYPE_CHECKING:
    import torch

SMALLEST_AREA = 25
SEEN_FRAMES = 0.75
STILL = min(SPEEDS.values()) / 2
EVERY = 4
ATTRIBUTES = ("colour", "shape", "size", "direction", "speed", "tint")


@dataclass(frozen=True)
class SeenClip:
    """The words that fit a clip best; None where nothing does, as the direction of a still object.

    `radius` and `way`, the distance from the first frame to the last, are in pixels.
    """

    colour: str | None
    shape: str | None
    size: str | None
    direction: str | None
    speed: str | None
    tint: str | None
    radius: float
    way: float


def read_clip(video: torch.Tensor) -> SeenClip:
    """What a (3, frames, height, width) clip in [0, 1] shows.

    An object counts as seen when it is there in three frames of four.
    """
    import torch

    video = video.float().clamp(0, 1)
    tint = read_tint(video)
    frames, height, width = video.shape[1:]
    # The masks know pictures only: the frames lie one below the other.
    masks = {
        name: mask.reshape(frames, height, width)
        for name, mask in colour_masks(video.reshape(3, frames * height, width)).items()
    }
    colour = max(masks, key=lambda name: int(masks[name].sum()))
    mask = masks[colour]
    area = mask.sum((1, 2))
    seen = (area >= SMALLEST_AREA).nonzero().flatten()
    if len(seen) < SEEN_FRAMES * frames:
        return SeenClip(None, None, None, None, None, tint, 0.0, 0.0)
    axis = torch.arange(max(height, width), dtype=torch.float32) + 0.5
    x = ((mask.sum(1) * axis[:width]).sum(1) / area)[seen]
    y = ((mask.sum(2) * axis[:height]).sum(1) / area)[seen]
    time = seen.float() - seen.float().mean()
    way_x, way_y = (float((time * at).sum() / time.square().sum()) * (frames - 1) for at in (x, y))
    nothing = mask[0] & False
    fits = [fit(mask[frame], nothing) for frame in seen[::EVERY].tolist()]
    radius = sorted(found.radius for found in fits)[len(fits) // 2]
    way = max(abs(way_x), abs(way_y))
    moving = way >= STILL
    return SeenClip(
        colour,
        Counter(found.shape for found in fits).most_common(1)[0][0],
        min(RADII, key=lambda name: abs(RADII[name] - radius)),
        max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * way_x + DIRECTIONS[name][1] * way_y)
        if moving
        else None,
        min(SPEEDS, key=lambda name: abs(SPEEDS[name] - way)) if moving else None,
        tint,
        radius,
        way,
    )


def check_clip(video: torch.Tensor, clip: Clip) -> dict[str, bool]:
    """Which attributes of the clip its pixels show, by the names of `ATTRIBUTES`.

    What is said of an object of another colour than the clip's counts as wrong.
    """
    seen = read_clip(video)
    there = seen.colour == clip.colour
    right = {name: there and getattr(seen, name) == getattr(clip, name) for name in ATTRIBUTES}
    return right | {"tint": seen.tint == clip.tint}
