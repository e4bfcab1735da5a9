"""Pictures and videos as pipelines return them, as one kind of array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError

if TYPE_CHECKING:
    import numpy as np

CHANNELS = (1, 3, 4)


def as_clips(given: Any) -> np.ndarray:
    """Floats in [0, 1], (clips, frames, height, width, channels); a picture is one frame.

    `given` is what a diffusers pipeline returns, its `images` or `frames`, or one picture: PIL
    images, arrays with the channels last or tensors with the channels first, of floats in [0, 1]
    or of bytes, in lists or not.

    Raises:
        AutocacheError: it is nothing of that, or the pictures are not of one size.
    """
    import numpy as np

    for name in ("images", "frames"):
        given = getattr(given, name, given)
    clips = _floats(given)
    if clips.ndim not in (3, 4, 5) or clips.shape[-1] not in CHANNELS or not clips.size:
        raise AutocacheError(
            "expected pictures of 1, 3 or 4 channels or videos of them, as a pipeline returns "
            f"them; got {type(given).__name__} of shape {clips.shape}"
        )
    if clips.ndim == 3:
        clips = clips[None]
    return np.ascontiguousarray(clips[:, None] if clips.ndim == 4 else clips)


def few(output: Any, most: int) -> tuple[Any, int] | None:
    """The first pictures a pipeline drew, or frames of its first video, and how many clips it drew.

    Only these are copied: a video may be large. None where it returned latents or no pictures.
    """
    given: Any = output[0] if isinstance(output, tuple) and output else output
    for name in ("images", "frames"):
        given = getattr(given, name, given)
    if not isinstance(given, list) and not hasattr(given, "ndim"):
        return None
    if hasattr(given, "detach") and (given.ndim < 4 or given.shape[-3] not in CHANNELS[:2]):
        return None
    if not len(given):
        return None
    video = isinstance(given[0], list) or getattr(given, "ndim", 4) == 5
    if not video:
        return given[:most], len(given)
    frames = given[0]
    chosen = sorted({round(n * (len(frames) - 1) / (most - 1)) for n in range(most)})
    return [[frames[n] for n in chosen]], len(given)


def _floats(given: Any) -> np.ndarray:
    import numpy as np

    if isinstance(given, (list, tuple)):
        parts = [_floats(part) for part in given]
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            sizes = ", ".join(map(str, sorted(shapes))) or "none at all"
            raise AutocacheError(f"expected pictures of one size, got {sizes}")
        return np.stack(parts)
    if hasattr(given, "detach"):
        made = given.detach().float().cpu().numpy() if given.is_floating_point() else given.cpu()
        array = np.moveaxis(np.asarray(made), -3, -1) if given.ndim >= 3 else np.asarray(made)
    elif isinstance(given, np.ndarray):
        array = given
    elif hasattr(given, "getbands"):
        array = np.asarray(given if given.mode in ("L", "RGB", "RGBA") else given.convert("RGB"))
        array = array[..., None] if array.ndim == 2 else array
    else:
        raise AutocacheError(
            "expected PIL images, arrays or tensors, or a pipeline's output; "
            f"got {type(given).__name__}"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype.kind != "f":
        raise AutocacheError(f"expected floats in [0, 1] or bytes, got {array.dtype}")
    return array.astype(np.float32)
