"""What attention adds to the latent stream in one block, gate included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.errors import DoesNotApplyError, ParameterError
from autocache.probe.entry import Entry
from autocache.runtime.intercept import PASS
from autocache.runtime.tray import Tray, Trays
from autocache.spec.bind import signature

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack


@dataclass(frozen=True)
class AttentionResidual:
    """The latent stream after attention was added to it, minus the stream that entered the block.

    The block is the middle one, or the one of that number, from 0; the stack the first whose spec
    says where attention ends, or the one of that path. Measured on computed steps only. Shape: that
    of the latent stream.
    """

    block: int | None = None
    stack: str | None = None

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        stack, path = self._stack(bound)
        number = len(stack.blocks) // 2 if self.block is None else self.block
        if not 0 <= number < len(stack.blocks):
            raise ParameterError(
                f"block {number} was to be measured; {stack.path} of {bound.spec.name} has "
                f"{len(stack.blocks)} blocks, counted from 0"
            )
        block, entry = stack.blocks[number], Entry(part, stack, number)
        return [(block, entry), (block.get_submodule(path), _AfterAttention(entry))]

    def _stack(self, bound: Bound) -> tuple[BoundStack, str]:
        if self.stack is None:
            for stack in bound.stacks:
                if stack.blocks and stack.spec.after_attention:
                    return stack, stack.spec.after_attention
        chosen = bound.stack(self.stack)
        if chosen.spec.after_attention is None:
            raise DoesNotApplyError(
                f"the spec of {bound.spec.name} does not say where in a block of {chosen.path} "
                "attention ends: it lacks after_attention, the sub-module that is given the latent "
                "stream after attention was added; teacache measures what enters the blocks instead"
            )
        return chosen, chosen.spec.after_attention


class _AfterAttention:
    wants_arguments = True

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.session = entry.part.session
        self.trays = Trays()

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        part = self.entry.part
        moment = part.moment
        # A dry run also gets here in a step that counts as skipped.
        if moment is not None and part.decide(moment).compute:
            names = signature(type(module))
            moment.probe = self.entry.added(moment, names.get(names.names[0], args, kwargs))
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output

    def ahead(self, module: nn.Module) -> tuple[Any, ...]:
        """See `Ahead`."""
        return ()

    def after(self, module: nn.Module, tray: Tray) -> None:
        """See `Ahead`."""
        for args, kwargs in tray.left:
            self.enter(module, args, kwargs)
