"""The distance every published rule is stated in."""

from __future__ import annotations

import torch

EPSILON = 1e-8


def relative_l1(now: torch.Tensor, reference: torch.Tensor, per_sample: bool = False) -> float:
    """`mean|now - reference| / mean|reference|`, in float32. Syncs with the device.

    With `per_sample` the mean of that over the first dimension.
    """
    reference = reference.float()
    kept = tuple(range(1, reference.ndim)) if per_sample else None
    difference = (now.float() - reference).abs().mean(kept)
    return float((difference / reference.abs().mean(kept).clamp_min(EPSILON)).mean())
