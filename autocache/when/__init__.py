"""When: compute or skip at this step? One rule per file.

A rule of one's own is a `When` that looks at a `Moment` and returns a `Decision`.
"""

from autocache.runtime.moment import Decision, Moment
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
