"""The residual of the first blocks, which are always computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.errors import ParameterError
from autocache.probe.entry import Entry
from autocache.runtime.intercept import COMPUTE

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack


@dataclass(frozen=True)
class FirstBlocks:
    """What the first `count` blocks of a stack add to the latent stream.

    The stack is the first one, or the one of the given path. Shape: that of the latent stream.
    """

    count: int = 1
    stack: str | None = None

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        stack = bound.stack(self.stack)
        if not 1 <= self.count <= len(stack.blocks):
            raise ParameterError(
                f"{self.count} first blocks were asked for; {stack.path} of {bound.spec.name} "
                f"has {len(stack.blocks)}"
            )
        entry, last = Entry(part, stack, 0), stack.blocks[self.count - 1]
        return [(stack.blocks[0], entry), (last, _Exit(entry, stack))]


class _Exit:
    def __init__(self, entry: Entry, stack: BoundStack) -> None:
        self.entry = entry
        self.session = entry.part.session
        returns = stack.spec.returns
        self.index = (
            None if isinstance(returns, str) else stack.spec.return_order.index(entry.stream)
        )

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return COMPUTE

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.entry.part.moment
        if moment is not None and self.entry in moment.flights:
            after = output if self.index is None else output[self.index]
            # Where it is not known, the step is computed.
            moment.probe = self.entry.added(moment, after)
        return output
