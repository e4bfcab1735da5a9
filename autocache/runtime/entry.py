"""One value in a store: what is held of a tensor, and whether that is still what it was."""

from __future__ import annotations

from typing import NamedTuple

import torch

from autocache.runtime.claims import Claim
from autocache.runtime.encodings import PLAIN, Held, HeldAsIs
from autocache.runtime.encodings.host import HeldOnHost


class Value(NamedTuple):
    """A tensor as it was at a step; `time` is the step's timestep, where the rule that fills the
    gap looks at it."""

    step: int
    tensor: torch.Tensor
    time: float | None = None


class Entry:
    """What is held of a step."""

    __slots__ = ("_value", "_version", "held")

    def __init__(self, held: Held, step: int, time: float | None) -> None:
        self.held = held
        first = held.parts[0]
        self._value = Value(step, first, time)
        # What is on the host nobody else has. Inference tensors keep no version counter; they are
        # cloned on entry instead.
        self._version = None if held.away or first.is_inference() else first._version

    @property
    def step(self) -> int:
        return self._value.step

    @property
    def time(self) -> float | None:
        return self._value.time

    @property
    def written_to(self) -> bool:
        """Whether someone wrote into it since."""
        return self._version is not None and self.held.parts[0]._version != self._version

    def exchange(self, tensor: torch.Tensor, step: int, time: float | None) -> bool:
        """Become what is held of another step, if that costs the same."""
        if not self.held.exchange(tensor):
            return False
        self._value = Value(step, tensor, time)
        self._version = None if tensor.is_inference() else tensor._version
        return True

    def value(self) -> Value:
        """The tensor as it was."""
        value, held = self._value, self.held
        return value if held.as_it_is else value._replace(tensor=held.decode())


def hold(tensor: torch.Tensor, claim: Claim | None, owned: bool) -> Held:
    """Hold a tensor as was decided on its claim; as it is where there is no limit."""
    if claim is None:
        return HeldAsIs(tensor)
    if claim.away:
        return HeldOnHost(claim.encoding, tensor, owned)
    return HeldAsIs(tensor) if claim.encoding is PLAIN else Held(claim.encoding, tensor)
