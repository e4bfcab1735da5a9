"""Training-free cache acceleration of diffusion models, without a change to the model's code.

>>> import autocache
>>> autocache.patch(pipe, "teacache", threshold=0.1)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from autocache.lazy import look_up

if TYPE_CHECKING:
    from autocache import demo, errors, how, probe, when, where
    from autocache.api import Patch, is_patched, patch, patched, specs, stats, strategies, unpatch
    from autocache.comparison.compare import compare
    from autocache.comparison.figures import Comparison
    from autocache.reporting.write import report
    from autocache.requests import Request, request
    from autocache.run_stats import RunStats
    from autocache.tuning.calibrate import calibrate
    from autocache.tuning.profile import Profile
    from autocache.tuning.tune import tune

_HOMES = {
    "Comparison": "comparison.figures",
    "Patch": "api",
    "Profile": "tuning.profile",
    "Request": "requests",
    "RunStats": "run_stats",
    "calibrate": "tuning.calibrate",
    "compare": "comparison.compare",
    "is_patched": "api",
    "patch": "api",
    "patched": "api",
    "report": "reporting.write",
    "request": "requests",
    "specs": "api",
    "stats": "api",
    "strategies": "api",
    "tune": "tuning.tune",
    "unpatch": "api",
}
_MODULES = ("demo", "errors", "how", "probe", "when", "where")

__all__ = [
    "Comparison",
    "Patch",
    "Profile",
    "Request",
    "RunStats",
    "calibrate",
    "compare",
    "demo",
    "errors",
    "how",
    "is_patched",
    "patch",
    "patched",
    "probe",
    "report",
    "request",
    "specs",
    "stats",
    "strategies",
    "tune",
    "unpatch",
    "when",
    "where",
]
__version__ = "0.1.0"

# A library is quiet until the program, AUTOCACHE or AUTOCACHE_LOG says otherwise.
logging.getLogger("autocache").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"autocache.{name}")
    return look_up(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
