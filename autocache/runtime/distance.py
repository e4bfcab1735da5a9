"""The distance every published rule is stated in."""

from __future__ import annotations

import torch

from autocache.runtime.ranks import ALONE, Ranks

EPSILON = 1e-8


def relative_l1(
    now: torch.Tensor, reference: torch.Tensor, per_sample: bool = False, ranks: Ranks = ALONE
) -> float:
    """`mean|now - reference| / mean|reference|`, in float32. Syncs with the device.

    With `per_sample` the mean of that over the first dimension. The means are those over all of
    `ranks` where they share the tensors.

    Raises:
        RankError: another rank failed, is late, or is elsewhere.
    """
    reference = reference.float()
    kept = tuple(range(1, reference.ndim)) if per_sample else None
    sizes = (now.float() - reference).abs(), reference.abs()
    difference, size = ranks.means(*sizes, dims=kept)
    found = difference / size.clamp_min(EPSILON)
    return float(found.mean() if per_sample else found)
