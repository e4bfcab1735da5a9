"""Skip while the first blocks' states have moved little, added up since the last computed step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When

if TYPE_CHECKING:
    import torch

    from autocache.probe import Probe

Error = Literal["delta_y", "delta_minus"]


@dataclass(frozen=True)
class Trajectory(When):
    """DiCache's rule. The probe is the latent stream before (`x`) and after (`y`) the first blocks.
    `delta_y` is the relative L1 change of `y` since the step before, skipped or not, and
    `delta_minus` how much it differs from that of `x`. It is added up; at `threshold` the step is
    computed and the sum starts again. A threshold of 0 never skips.

    With `P = y - x`, a skipped step leaves in `memory["progress"]` how far along it is from the
    last computed step but one to the last: `mean|P - P2| / mean|P1 - P2|`, within 1 and `most`.
    `Aligned` goes as far in what it fills in.

    Source: DiCache, arXiv 2508.17356.
    """

    measured: Probe
    threshold: float
    error: Error = "delta_y"
    most: float = 1.5

    @property
    def probe(self) -> Probe | None:  # type: ignore[override]
        """What is measured; nothing is where nothing can be skipped."""
        return self.measured if self.threshold > 0 else None

    def decide(self, moment: Moment) -> Decision:
        if self.probe is None or moment.probe is None:
            moment.memory["sum"] = 0.0
            return Decision(compute=True, keep=self.threshold > 0)
        x, y = moment.probe
        moved = self._moved(moment, x, y)
        total = math.inf if moved is None else moment.memory.get("sum", 0.0) + moved
        compute = not total < self.threshold
        moment.memory["sum"] = 0.0 if compute else total
        if compute:
            moment.store.put("added", y - x, moment.step, keep=2, owned=True)
        else:
            moment.memory["progress"] = self._progress(moment, y - x)
        distance = None if moved is None else total
        return Decision(compute, keep=True, distance=distance, threshold=self.threshold)

    def overruled(self, moment: Moment) -> None:
        assert moment.probe is not None
        x, y = moment.probe
        moment.memory["sum"] = 0.0
        moment.store.put("added", y - x, moment.step, keep=2, owned=True)

    def _moved(self, moment: Moment, x: torch.Tensor, y: torch.Tensor) -> float | None:
        """The change since the step before, None where the step is computed whatever it is."""
        pairs = {"y": y} if self.error == "delta_y" else {"y": y, "x": x}
        before = {name: moment.store.get(name, like=now) for name, now in pairs.items()}
        for name, now in pairs.items():
            moment.store.put(name, now.clone(), moment.step, owned=True)
        if moment.forced or not all(before.values()):
            return None
        ranks = moment.call.ranks
        changes = [
            relative_l1(now, before[name][-1].tensor, ranks=ranks) for name, now in pairs.items()
        ]
        return changes[0] if len(changes) == 1 else abs(changes[0] - changes[1])

    def _progress(self, moment: Moment, added: torch.Tensor) -> float:
        known = moment.store.get("added", like=added)
        if len(known) < 2:
            return 1.0
        earlier, later = (value.tensor.float() for value in known)
        sizes = (added.float() - earlier).abs(), (later - earlier).abs()
        part, whole = moment.call.ranks.means(*sizes)
        progress = float(part / whole.clamp_min(1e-8))
        # A comparison with NaN is false: the last value is then repeated.
        return min(progress, self.most) if progress > 1.0 else 1.0
