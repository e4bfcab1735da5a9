"""The last value stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from autocache.runtime.record import Action
    from autocache.runtime.store import Value


@dataclass(frozen=True)
class Reuse:
    """Copy the output, or add the residual, of the last computed step."""

    keep: int = 1
    action: Action = "reused"

    def fill(self, values: Sequence[Value], step: int) -> torch.Tensor:
        return values[-1].tensor
