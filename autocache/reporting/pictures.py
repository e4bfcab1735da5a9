"""Before and after: pictures for the page, with their difference and how far they lie apart."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autocache import metrics
from autocache.errors import AutocacheError
from autocache.reporting.picture_data import as_clips

if TYPE_CHECKING:
    import numpy as np

SIDE = 384
"""Most pixels along a side of a picture on the page; figures are of the full size."""
SHOWN = 8
"""Most pictures, or frames of a video, on the page."""
GAIN = 4


def compare(
    images: Any, baseline: Any = None, captions: Sequence[str] | None = None
) -> dict[str, Any]:
    """The pictures of a run as PNG in base64, and beside each that of the plain run.

    Raises:
        AutocacheError: they are no pictures, or those of the plain run are not of their shape, or
            there is not a caption for each.
    """
    after = as_clips(images)
    before = None if baseline is None else as_clips(baseline)
    if before is not None and before.shape != after.shape:
        raise AutocacheError(
            "expected pictures with and without caching of one shape (clips, frames, height, "
            f"width, channels), got {after.shape} and {before.shape}"
        )
    if isinstance(captions, str) or (captions is not None and len(captions) != len(after)):
        raise AutocacheError(f"expected {len(after)} captions, one a picture; got {captions!r}")
    kind = "frame" if after.shape[1] > 1 else "picture"
    scores = _scores(before, after) if before is not None else []
    shown = []
    for clip, frame in _chosen(*after.shape[:2]):
        entry: dict[str, Any] = {
            "caption": str(captions[clip]) if captions else f"picture {clip + 1}",
            "frame": frame if kind == "frame" else None,
            "after": png(after[clip, frame]),
        }
        if before is not None:
            entry["before"] = png(before[clip, frame])
            entry["difference"] = png(_difference(before[clip, frame], after[clip, frame]))
            entry.update(scores[clip * after.shape[1] + frame])
        shown.append(entry)
    count = after.shape[0] * after.shape[1]
    return {"kind": kind, "gain": GAIN, "count": count, "shown": shown, **summary(scores)}


def _chosen(clips: int, frames: int) -> list[tuple[int, int]]:
    """Of pictures the first; of a video frames from its first to its last."""
    if frames == 1:
        return [(clip, 0) for clip in range(min(clips, SHOWN))]
    shown = min(clips, 2)
    each = min(frames, SHOWN // shown)
    picked = [round(index * (frames - 1) / (each - 1)) for index in range(each)]
    return [(clip, frame) for clip in range(shown) for frame in picked]


def _scores(before: np.ndarray, after: np.ndarray) -> list[dict[str, float | None]]:
    left, right = (clips.reshape(-1, *clips.shape[2:]) for clips in (before, after))
    similar: Sequence[float | None] = [None] * len(left)
    if min(left.shape[1:3]) >= metrics.SMALLEST:
        similar = metrics.ssim(left, right)
    decibels = metrics.psnr(left, right)
    return [{"psnr": p, "ssim": s} for p, s in zip(decibels, similar, strict=True)]


def summary(scores: list[dict[str, float | None]]) -> dict[str, Any]:
    """Over all pictures; None throughout where there is nothing to compare with."""
    if not scores:
        return {"psnr": None, "psnr_worst": None, "identical": 0, "ssim": None}
    decibels = [score["psnr"] for score in scores if score["psnr"] is not None]
    similar = [score["ssim"] for score in scores if score["ssim"] is not None]
    return {
        "psnr": metrics.mean_psnr(decibels),
        "psnr_worst": min(decibels),
        "identical": decibels.count(math.inf),
        "ssim": sum(similar) / len(similar) if similar else None,
    }


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return abs(after[..., :3] - before[..., :3]) * GAIN


def png(picture: np.ndarray) -> str:
    """A small PNG of floats in [0, 1], (height, width, channels), in base64."""
    import numpy as np
    from PIL import Image

    finite = np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0)
    pixels = (finite.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode("ascii")
