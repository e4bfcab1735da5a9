"""The residual of the first blocks, which are always computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import ParameterError
from autocache.probe.entry import Entry
from autocache.runtime.intercept import COMPUTE

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack


@dataclass(frozen=True)
class FirstBlocks:
    """What the first `count` blocks of a stack add to the latent stream.

    The stack is the first one, or the one of the given path. Shape: that of the latent stream. With
    `states` it is the stream itself, before and after them, stacked in a new first dimension.
    """

    count: int = 1
    stack: str | None = None
    states: bool = False

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        stack = bound.stack(self.stack)
        if not 1 <= self.count <= len(stack.blocks):
            raise ParameterError(
                f"{self.count} first blocks were asked for; {stack.path} of {bound.spec.name} "
                f"has {len(stack.blocks)}"
            )
        entry, last = Entry(part, stack, 0), stack.blocks[self.count - 1]
        return [(stack.blocks[0], entry), (last, _Exit(entry, stack, self.states))]


class _Exit:
    def __init__(self, entry: Entry, stack: BoundStack, states: bool) -> None:
        self.entry = entry
        self.states = states
        self.session = entry.part.session
        self.flow = stack.flow
        self.index = stack.flow.names.index(entry.stream)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return COMPUTE

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        entry, moment = self.entry, self.entry.part.moment
        if moment is not None and entry in moment.flights:
            after: Any = self.flow.split(output)[self.index]
            # Where it is not known, the step is computed.
            moment.probe = (
                self._states(moment, after) if self.states else entry.added(moment, after)
            )
        return output

    def _states(self, moment: Moment, after: torch.Tensor) -> torch.Tensor | None:
        before = self.entry.before(moment)
        if before is None:
            return None
        # The blocks may be on several devices.
        return torch.stack((before.to(after.device), after.to(before.dtype)))
