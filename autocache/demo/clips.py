"""Captioned clips of one moving object, drawn procedurally: the data behind the video pipeline.

Every word of a caption can be read back from the pixels; where the object starts, where the light
comes from and how bright the background is differ from clip to clip and stay unsaid.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from autocache.demo.scenes import COLOURS, SHAPES, TINTS, shape_mask
from autocache.demo.split import chosen, endless, is_held_out

if TYPE_CHECKING:
    import torch

CLIP_SIZE = 32
FRAMES = 17

RADII = {"small": 6.0, "large": 9.0}
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEEDS = {"slowly": 3.5, "quickly": 10.0}
"""Pixels from the first frame to the last."""
VOCABULARY = (RADII, COLOURS, SHAPES, DIRECTIONS, SPEEDS, TINTS)
"""The words of a clip, in the order of its fields."""


@dataclass(frozen=True)
class Clip:
    """One object, how it moves, and the background it moves on."""

    size: str
    colour: str
    shape: str
    direction: str
    speed: str
    tint: str

    @property
    def caption(self) -> str:
        """The clip in words."""
        return (
            f"a {self.size} {self.colour} {self.shape} moving {self.direction} {self.speed} "
            f"on a {self.tint} background"
        )

    @property
    def held_out(self) -> bool:
        """True for the share of clips that training never draws."""
        return is_held_out(self.caption)


def random_clip(rng: random.Random) -> Clip:
    """A clip of any of the words."""
    return Clip(*(rng.choice(list(words)) for words in VOCABULARY))


def clips(seed: int, *, held_out: bool) -> Iterator[Clip]:
    """Endless clips, either those of training or those training never saw."""
    return endless(random_clip, seed, held_out=held_out)


def held_out_clips(count: int, seed: int = 0) -> list[str]:
    """`count` different captions of the held-out split, the same ones for the same seed.

    Raises:
        ValueError: the split has fewer captions than `count`.
    """
    return chosen((Clip(*words).caption for words in product(*VOCABULARY)), count, seed)


def parse_clip(caption: str) -> Clip:
    """The clip a caption describes.

    Raises:
        ValueError: the caption is not of the form `Clip.caption` writes.
    """
    words = caption.split()
    try:
        named = [*words[1:4], *words[5:7], words[9]]
        clip = Clip(*named)
    except (IndexError, TypeError):
        clip = None
    if clip is None or clip.caption != caption:
        example = random_clip(random.Random(0)).caption
        raise ValueError(f"not a clip caption: {caption!r}; expected the form {example!r}")
    return clip


def render_clips(batch: list[Clip], rng: random.Random) -> torch.Tensor:
    """Draw clips as a (len(batch), 3, 17, 32, 32) float tensor in [0, 1]."""
    import torch

    axis = torch.arange(CLIP_SIZE, dtype=torch.float32) + 0.5
    y, x = axis[:, None].expand(CLIP_SIZE, -1), axis[None, :].expand(CLIP_SIZE, -1)
    passed = torch.linspace(0, 1, FRAMES)[:, None, None]
    half = CLIP_SIZE / 2
    videos = []
    for clip in batch:
        angle = rng.uniform(0, 2 * math.pi)
        lx, ly = math.cos(angle), math.sin(angle)
        ramp = ((x - half) * lx + (y - half) * ly) / half
        brightness = rng.uniform(0.42, 0.62) + rng.uniform(0.06, 0.16) * ramp
        image = brightness * torch.tensor(TINTS[clip.tint])[:, None, None]
        radius = RADII[clip.size] * rng.uniform(0.94, 1.06)
        way = SPEEDS[clip.speed] * rng.uniform(0.92, 1.08)
        dx, dy = DIRECTIONS[clip.direction]
        middle = []
        for component in (dx, dy):
            room = half - 1.2 * radius - abs(component) * way / 2
            middle.append(half + rng.uniform(-1, 1) * max(0.0, room))
        to_x = x - (middle[0] + dx * way * (passed - 0.5))
        to_y = y - (middle[1] + dy * way * (passed - 0.5))
        lit = 0.92 + 0.16 * (to_x * lx + to_y * ly) / radius
        paint = torch.tensor(COLOURS[clip.colour])[:, None, None, None] * lit
        video = torch.lerp(image[:, None], paint, shape_mask(clip.shape, to_x, to_y, radius))
        videos.append(video.clamp(0, 1))
    return torch.stack(videos)
