"""Compute every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.runtime.moment import Decision
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.runtime.moment import Moment


@dataclass(frozen=True)
class Always(When):
    """Skips nothing and keeps nothing: for places that save their work in another way."""

    def decide(self, moment: Moment) -> Decision:
        return Decision(compute=True)
