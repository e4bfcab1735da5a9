"""How far a run lies from its reference: PSNR, SSIM and relative L1, per image, on raw floats.

Every measure takes two arrays of one shape, (images, height, width, channels) for pictures, and
returns one float per image. Nothing is rounded or clipped to bytes first. SSIM needs scikit-image:
`pip install autocache[report]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 11
"""Pixels that the window of SSIM needs along each side of a picture."""


def _pair(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    left, right = np.asarray(reference), np.asarray(other)
    if left.shape != right.shape or left.ndim < 2:
        raise AutocacheError(
            f"expected two batches of images of one shape, got {left.shape} and {right.shape}"
        )
    for array in (left, right):
        if array.dtype.kind != "f":
            raise AutocacheError(f"expected raw floats, got {array.dtype}; divide bytes by 255")
    # Half precision would overflow or lose the small differences measured here.
    return left.astype(np.float64), right.astype(np.float64)


def psnr(reference: np.ndarray, other: np.ndarray, data_range: float = 1.0) -> list[float]:
    """Peak signal-to-noise ratio in dB, 0 to `math.inf` and higher is closer.

    `math.inf` for identical images. `data_range` is the span of the values, 1.0 for [0, 1].
    """
    left, right = _pair(reference, other)
    errors = ((left - right) ** 2).reshape(len(left), -1).mean(axis=1)
    return [
        math.inf if error == 0 else 10 * math.log10(data_range**2 / error)
        for error in errors.tolist()
    ]


def mean_psnr(decibels: Sequence[float]) -> float:
    """Mean over the images that differ; `math.inf` when none does."""
    finite = [value for value in decibels if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


def ssim(reference: np.ndarray, other: np.ndarray, data_range: float = 1.0) -> list[float]:
    """Structural similarity, -1 to 1 and 1 for identical images.

    Gaussian window of sigma 1.5 as Wang et al. (2004) define it, mean over channels (last axis).

    Raises:
        AutocacheError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise AutocacheError("SSIM needs scikit-image: pip install 'autocache[report]'") from error
    left, right = _pair(reference, other)
    similarity: Any = structural_similarity  # a tuple only when the gradient or map is asked for
    return [
        float(
            similarity(
                one,
                two,
                data_range=data_range,
                channel_axis=-1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
        for one, two in zip(left, right, strict=True)
    ]


def relative_l1(reference: np.ndarray, other: np.ndarray) -> list[float]:
    """Sum of absolute differences over sum of absolute reference values, 0 and up, 0 identical.

    `math.inf` where the reference is all zeros and the other is not.
    """
    left, right = _pair(reference, other)
    figures = []
    for one, two in zip(left, right, strict=True):
        difference, size = float(abs(one - two).sum()), float(abs(one).sum())
        figures.append(difference / size if size else (math.inf if difference else 0.0))
    return figures
