"""How: what stands in for what was skipped? One rule per file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.lazy import look_up

if TYPE_CHECKING:
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

_HOMES = {
    "Aligned": "aligned",
    "Blend": "blend",
    "Extrapolate": "extrapolate",
    "Forecast": "forecast",
    "Frequency": "frequency",
    "How": "base",
    "Reuse": "reuse",
    "Weighted": "weighted",
}


def __getattr__(name: str) -> Any:
    return look_up(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
