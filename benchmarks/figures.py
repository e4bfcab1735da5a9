"""What is written of drawn samples: PSNR, SSIM, and the attributes that a checker reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autocache.demo.checker import share
from autocache.metrics import mean_psnr, psnr, ssim

Check = Callable[[np.ndarray, str], dict[str, bool]]


def figures(
    plain: Sequence[np.ndarray], drawn: Sequence[np.ndarray], captions: list[str], check: Check
) -> dict[str, Any]:
    """Samples of (height, width, 3) or (frames, height, width, 3), as floats in [0, 1].

    PSNR is of a whole sample; its mean is over those that differ, "inf" where none does. The SSIM
    of a clip is the mean over its frames.
    """
    decibels = psnr(_flat(plain), _flat(drawn))
    likeness = [_ssim(one, two) for one, two in zip(plain, drawn, strict=True)]
    return {
        "psnr": _finite(mean_psnr(decibels)),
        "psnr_p10": _finite(float(np.percentile(decibels, 10, method="lower"))),
        "worst": _finite(min(decibels)),
        "ssim": round(float(np.mean(likeness)), 4),
        "ssim_p10": round(float(np.percentile(likeness, 10, method="lower")), 4),
        "attributes": share_right(drawn, captions, check),
    }


def share_right(drawn: Sequence[np.ndarray], captions: list[str], check: Check) -> float:
    """Share of the captions' attributes that the checker reads in what was drawn."""
    pairs = zip(drawn, captions, strict=True)
    return round(share([check(np.asarray(sample), caption) for sample, caption in pairs])[0], 4)


def _flat(samples: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([one.ravel() for one in samples])


def _ssim(plain: np.ndarray, drawn: np.ndarray) -> float:
    frames = plain.ndim == 4
    return float(np.mean(ssim(plain, drawn) if frames else ssim(plain[None], drawn[None])))


def _finite(decibels: float) -> float | str:
    return round(decibels, 2) if math.isfinite(decibels) else "inf"
