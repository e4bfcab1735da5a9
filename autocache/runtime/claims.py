"""What the places and the rules of a strategy want to keep, and what all of it would take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autocache.runtime.encodings import PLAIN, Encoding

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class Claim:
    """What one place, or a rule, wants to keep in one guidance branch: all of it or nothing."""

    name: str
    shapes: tuple[tuple[torch.Size, torch.dtype, int], ...]
    """Shape and dtype of each tensor, and how many of its values are kept."""
    device: torch.device
    exact: bool = False
    """It is what a rule compares, and held as it is: what is measured must be the truth."""
    expected: int = 1
    """Places like it in the same guidance branch."""
    encoding: Encoding = field(default=PLAIN, init=False)
    granted: int = field(default=0, init=False)
    """Bytes promised to it."""
    away: bool = field(default=False, init=False)
    """It is held on the host."""
    refused: bool = field(default=False, init=False)

    def like(self, other: Claim) -> bool:
        return self.shapes == other.shapes and self.device == other.device

    def size(self, encoding: Encoding) -> int:
        """Bytes it takes at most."""
        form = PLAIN if self.exact else encoding
        return sum(form.size(shape, dtype) * keep for shape, dtype, keep in self.shapes)


Claims = Mapping[str, Claim]
"""Those of one guidance branch, by name, in the order they were made."""


def places(claims: Claims) -> list[Claim]:
    """The claims of places."""
    return [claim for claim in claims.values() if not claim.exact]


def rules(claims: Claims) -> list[Claim]:
    """The claims of rules."""
    return [claim for claim in claims.values() if claim.exact]


def wanted(branches: Iterable[Claims], encoding: Encoding) -> int:
    """Bytes that all of it takes, places to come counted like those seen."""
    total = 0.0
    for claims in branches:
        total += sum(claim.size(encoding) for claim in rules(claims))
        seen = places(claims)
        if seen:
            expected = max(len(seen), *(claim.expected for claim in seen))
            total += sum(claim.size(encoding) for claim in seen) * expected / len(seen)
    return round(total)


def least(branches: Iterable[Claims], encoding: Encoding) -> int:
    """Bytes below which no place could keep anything: those of the smallest in all the guidance
    branches, with what their rules compare."""
    needs: dict[str, int] = {}
    for claims in branches:
        compared = sum(rule.size(encoding) for rule in rules(claims))
        for place in places(claims):
            needs[place.name] = needs.get(place.name, 0) + compared + place.size(encoding)
    return min(needs.values(), default=0)
