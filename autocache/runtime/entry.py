"""One value in a store: what is held of a tensor, and whether that is still what it was."""

from __future__ import annotations

from typing import NamedTuple

import torch

from autocache.runtime.claims import Claim
from autocache.runtime.encodings import PLAIN, Held
from autocache.runtime.encodings.host import HeldOnHost


class Entry(NamedTuple):
    """What is held of a step."""

    step: int
    held: Held
    version: int
    time: float | None

    @property
    def written_to(self) -> bool:
        # What is on the host nobody else has.
        return not self.held.away and version_of(self.held.parts[0]) != self.version


def version_of(tensor: torch.Tensor) -> int:
    # Inference tensors keep no version counter; they are cloned on entry instead.
    return -1 if tensor.is_inference() else tensor._version


def hold(tensor: torch.Tensor, claim: Claim | None, owned: bool) -> Held:
    """Hold a tensor as was decided on its claim; as it is where there is no limit."""
    if claim is not None and claim.away:
        return HeldOnHost(claim.encoding, tensor, owned)
    return Held(PLAIN if claim is None else claim.encoding, tensor)
