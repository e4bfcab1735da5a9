"""The protocol of a rule that fills the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from autocache.runtime.record import Action
    from autocache.runtime.store import Value


class How(Protocol):
    """An immutable rule: the last values with their steps in, one tensor out."""

    @property
    def keep(self) -> int:
        """Values it wants to look back on, which is its memory cost per cached tensor."""
        ...

    @property
    def action(self) -> Action:
        """What a step it filled is called in the record."""
        ...

    def fill(self, values: Sequence[Value], step: int) -> torch.Tensor:
        """The value at `step`, from at least one value at earlier steps, oldest first."""
        ...
