"""How: what stands in for what was skipped? One rule per file."""

from autocache.how.aligned import Aligned
from autocache.how.base import How
from autocache.how.blend import Blend
from autocache.how.extrapolate import Extrapolate
from autocache.how.forecast import Forecast
from autocache.how.frequency import Frequency
from autocache.how.reuse import Reuse
from autocache.how.weighted import Weighted

__all__ = [
    "Aligned",
    "Blend",
    "Extrapolate",
    "Forecast",
    "Frequency",
    "How",
    "Reuse",
    "Weighted",
]
