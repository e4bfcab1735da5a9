"""When: compute or skip at this step? One rule per file.

A rule of one's own is a `When` that looks at a `Moment` and returns a `Decision`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.lazy import look_up
from autocache.runtime.moment import Decision, Moment

if TYPE_CHECKING:
    from autocache.when.accumulated import Accumulated
    from autocache.when.always import Always
    from autocache.when.base import When
    from autocache.when.broadcast import Broadcast
    from autocache.when.centred import Centred
    from autocache.when.chosen import Chosen
    from autocache.when.codebook import Codebook
    from autocache.when.conditional import Conditional
    from autocache.when.gain import Gain
    from autocache.when.guarded import Guarded
    from autocache.when.interval import Interval
    from autocache.when.latent_curvature import LatentCurvature
    from autocache.when.magnitude import Magnitude
    from autocache.when.mask import Mask
    from autocache.when.motion import Motion
    from autocache.when.placed import Placed
    from autocache.when.residual import Residual
    from autocache.when.trajectory import Trajectory
    from autocache.when.unchanged import Unchanged

__all__ = [
    "Accumulated",
    "Always",
    "Broadcast",
    "Centred",
    "Chosen",
    "Codebook",
    "Conditional",
    "Decision",
    "Gain",
    "Guarded",
    "Interval",
    "LatentCurvature",
    "Magnitude",
    "Mask",
    "Moment",
    "Motion",
    "Placed",
    "Residual",
    "Trajectory",
    "Unchanged",
    "When",
]

_HOMES = {
    "Accumulated": "accumulated",
    "Always": "always",
    "Broadcast": "broadcast",
    "Centred": "centred",
    "Chosen": "chosen",
    "Codebook": "codebook",
    "Conditional": "conditional",
    "Gain": "gain",
    "Guarded": "guarded",
    "Interval": "interval",
    "LatentCurvature": "latent_curvature",
    "Magnitude": "magnitude",
    "Mask": "mask",
    "Motion": "motion",
    "Placed": "placed",
    "Residual": "residual",
    "Trajectory": "trajectory",
    "Unchanged": "unchanged",
    "When": "base",
}


def __getattr__(name: str) -> Any:
    return look_up(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
