"""The base of a rule that fills the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action


class How:
    """An immutable rule: the last values with their steps in, one tensor out."""

    keep: int = 1
    """Values it wants to look back on, which is its memory cost per cached tensor."""
    action: ClassVar[Action] = "reused"
    """What a step it filled is called in the record."""
    timed: bool = False
    """Whether it looks at the timesteps of the values and not only at their steps."""
    pushes: bool = False
    """Whether what it filled in is remembered like what was computed."""

    spatial: bool = False
    """Whether the last two axes must be the height and width of a grid."""

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        """The value at this moment, from at least one value at earlier steps, oldest first."""
        raise NotImplementedError

    def settle(
        self, values: Sequence[Value], computed: torch.Tensor, moment: Moment
    ) -> torch.Tensor:
        """What goes on in place of a computed value, which tells how far off the steps were that
        were filled in since the last of `values`; there are none at the first step."""
        return computed
