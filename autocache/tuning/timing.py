"""How long a generation takes: what goes with the denoiser's calls, and what does not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autocache.api import patched
from autocache.errors import AutocacheError, ParameterError
from autocache.quiet import quiet
from autocache.tuning.identity import identity
from autocache.tuning.study import search

if TYPE_CHECKING:
    import optuna

    from autocache.tuning.workload import Workload

FEW = 4.0
"""Speed-up of the second of two runs that are timed."""
_PAUSE = 1.0
"""Seconds between looks at what another worker is timing."""


@dataclass(frozen=True)
class Timing:
    """Seconds for one input, on a line through two runs."""

    whole: float
    """Without a cache."""
    few: float
    """With a part of the denoiser's calls."""
    share: float
    """That part."""

    @classmethod
    def of(cls, workload: Workload, storage: str | Path | None = None) -> Timing:
        """Time a pipeline on its inputs; a storage remembers it, so that what was interrupted goes
        on after the same speed-up.

        Raises:
            AutocacheError: Optuna is not installed, or the storage cannot be opened.
        """

        def objective(trial: optuna.Trial) -> tuple[float, ...]:
            whole, few, share = _timed(workload)
            return whole, few, share

        while True:
            study = search(
                objective,
                name="timing",
                trials=1,
                storage=storage,
                directions=["minimize"] * 3,
                identity=identity(workload),
            )
            trials = study.get_trials(deepcopy=False)
            if done := [trial.values for trial in trials if trial.state.name == "COMPLETE"]:
                return cls(*done[0])
            if reasons := [t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs]:
                raise AutocacheError(reasons[0])
            time.sleep(_PAUSE)

    @property
    def fixed(self) -> float:
        """Seconds beside the denoiser's calls."""
        return max(0.0, (self.few - self.share * self.whole) / (1 - self.share))

    def speedup(self, seconds: float) -> float:
        """The speed-up of the denoiser at which an input takes so many seconds, 1 and up.

        Raises:
            ParameterError: no speed-up comes down to that.
        """
        left = (seconds - self.fixed) / max(self.whole - self.fixed, 1e-9)
        if left <= 0:
            raise ParameterError(
                f"time={seconds}: an input takes {self.fixed:.3g} s beside the denoiser's calls"
            )
        return max(1.0, 1 / left)


def _timed(workload: Workload) -> tuple[float, float, float]:
    """Without and with a cache, after a first call that pays for what is loaded once."""
    workload.draw(next(workload.calls()))
    count = len(workload.inputs)
    whole = workload.run().seconds / count
    with quiet(), patched(workload.pipe, "auto", speedup=FEW) as patch:
        few = workload.run().seconds / count
        share = patch.stats().denoiser.share
    if share >= 1:
        raise AutocacheError("time: a generation has too few steps to be timed with less of them")
    return whole, few, share
