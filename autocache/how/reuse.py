"""The last value stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.how.base import How

if TYPE_CHECKING:
    import torch

    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment


@dataclass(frozen=True)
class Reuse(How):
    """Copy the output, or add the residual, of the last computed step."""

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        return values[-1].tensor
