"""The distance every published rule is stated in."""

from __future__ import annotations

import torch

EPSILON = 1e-8


def relative_l1(now: torch.Tensor, reference: torch.Tensor) -> float:
    """`mean|now - reference| / mean|reference|`, in float32. Syncs with the device."""
    reference = reference.float()
    difference = (now.float() - reference).abs().mean()
    return float(difference / reference.abs().mean().clamp_min(EPSILON))
