"""The last value, moved on by a share of how it last changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autocache.how.base import How

if TYPE_CHECKING:
    import torch

    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action


@dataclass(frozen=True)
class Blend(How):
    """`A + w (A - B)`, from the last value `A` and the one before it, `B`; `A` where it is alone.

    `weight` is `w`, or what `w` is at the first and at the last step, growing evenly in between; in
    a generation of unknown length it stays what it is at the first. With `feed_back` what was
    filled in counts as a value for later steps, as diffusers has it and the official code has not.

    Source: FasterCache, arXiv 2410.19355.
    """

    weight: float | tuple[float, float] = 0.5
    feed_back: bool = False
    action: ClassVar[Action] = "predicted"
    keep = 2

    @property
    def pushes(self) -> bool:  # type: ignore[override]
        return self.feed_back

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        latest = values[-1].tensor
        if len(values) == 1:
            return latest
        return latest + (latest - values[-2].tensor) * self.weight_at(moment.step, moment.total)

    def weight_at(self, step: int, total: int | None) -> float:
        """The weight of the change at a step."""
        if not isinstance(self.weight, tuple):
            return self.weight
        first, last = self.weight
        share = step / (total - 1) if total is not None and total > 1 else 0.0
        return first + (last - first) * share
