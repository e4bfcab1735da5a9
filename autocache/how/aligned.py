"""The last value, moved on along its last change as far as the first blocks have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from autocache.how.base import How

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action


@dataclass(frozen=True)
class Aligned(How):
    """`B + g (A - B)`, from the last value `A` and the one before it, `B`; `A` where it is alone.

    `g` is the progress that the rule measured (see `when.Trajectory`), 1 under any other rule.

    Source: DiCache, arXiv 2508.17356.
    """

    action: ClassVar[Action] = "predicted"
    keep = 2

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        latest = values[-1].tensor
        if len(values) == 1:
            return latest
        return torch.lerp(values[-2].tensor, latest, moment.memory.get("progress", 1.0))
