"""Skip the next step while the latent moves at a speed that changes evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.runtime.moment import Decision
from autocache.runtime.outputs import joined
from autocache.when.base import When

if TYPE_CHECKING:
    import torch

    from autocache.runtime.moment import Call, Moment


@dataclass(frozen=True)
class LatentCurvature(When):
    """AdaStep's rule. `d_n = mean|x_n - x_(n-1)|` is how far the scheduler's step `n` moved the
    latent, the first from zero. From three such speeds on, the next step is skipped where
    `|(d_n + d_(n-2)) / 2 - d_(n-1)| <= limit d_(n-1)`; before each such test `limit`, which starts
    a generation at `threshold`, is multiplied by `decay`.

    Where no scheduler is heard, what the denoiser is given stands for what the step before made.
    A `threshold` of 0 never skips.

    Source: AdaStep of MindIE's CogVideoX.
    """

    threshold: float
    decay: float = 0.99

    def decide(self, moment: Moment) -> Decision:
        latent = _after_last_step(moment.call)
        if self.threshold <= 0 or latent is None:
            return Decision(compute=True)
        speeds = self._speeds(moment, latent)
        if not all(map(math.isfinite, speeds)):
            moment.memory["speeds"] = []
            return Decision(compute=True, distance=math.nan)
        if len(speeds) < 3:
            # From two on, three may be there in the next step.
            return Decision(compute=True, keep=len(speeds) == 2)
        limit = moment.memory.get("limit", self.threshold) * self.decay
        moment.memory["limit"] = limit
        bend = abs((speeds[-1] + speeds[-3]) / 2 - speeds[-2])
        skip = bend <= limit * speeds[-2]
        distance = bend / speeds[-2] if speeds[-2] else None
        return Decision(not skip, keep=True, distance=distance, threshold=limit)

    @staticmethod
    def _speeds(moment: Moment, latent: torch.Tensor) -> list[float]:
        """The last three; none where the latent before was written into."""
        memory, store = moment.memory, moment.store
        before = store.get("latent", like=latent)
        first = "speeds" not in memory
        store.put("latent", latent, moment.step)
        moved = latent.float() - before[-1].tensor.float() if before else latent.float()
        known: list[float] = []
        if before or first:
            (speed,) = moment.call.ranks.means(moved.abs())
            known = [*memory.get("speeds", ()), float(speed)]
        memory["speeds"] = known[-3:]
        return memory["speeds"]


def _after_last_step(call: Call) -> torch.Tensor | None:
    if call.sample is not None:
        return call.sample
    # What a generation starts from was made by no step.
    return joined(call.latents) if call.step > 0 else None
