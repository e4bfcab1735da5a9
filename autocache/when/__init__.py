"""When: compute or skip at this step? One rule per file."""

from .accumulated import Accumulated
from .base import When
from .interval import Interval

__all__ = ["Accumulated", "Interval", "When"]
