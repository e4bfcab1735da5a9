"""When: compute or skip at this step? One rule per file."""

from autocache.when.accumulated import Accumulated
from autocache.when.base import When
from autocache.when.broadcast import Broadcast
from autocache.when.centred import Centred
from autocache.when.codebook import Codebook
from autocache.when.conditional import Conditional
from autocache.when.interval import Interval
from autocache.when.magnitude import Magnitude
from autocache.when.mask import Mask
from autocache.when.motion import Motion
from autocache.when.residual import Residual
from autocache.when.trajectory import Trajectory

__all__ = [
    "Accumulated",
    "Broadcast",
    "Centred",
    "Codebook",
    "Conditional",
    "Interval",
    "Magnitude",
    "Mask",
    "Motion",
    "Residual",
    "Trajectory",
    "When",
]
