"""Sub-modules, attention by kind and feed-forward: their output is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import DoesNotApplyError
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.moment import Decision
from autocache.runtime.outputs import Outputs, flatten, unflatten
from autocache.runtime.tray import Tray, Trays
from autocache.where.base import BlockRanges, Where, in_blocks

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound

EVERY_KIND = ("self", "joint", "cross", "temporal")
"""The kinds of attention."""


@dataclass(frozen=True)
class Submodules(Where):
    """Attention modules of the given kinds (`self`, `joint`, `cross`, `temporal`), and the
    feed-forward modules where `feed_forward` is set; in all blocks, or in some."""

    attention: tuple[str, ...] = ()
    feed_forward: bool = False
    blocks: BlockRanges | None = None

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        found = list(self._modules(bound))
        if not found:
            raise DoesNotApplyError(self._nothing(bound))
        return [
            (module, OutputSite(part, name, len(found), attention, not attention))
            for name, module, attention in found
        ]

    def within(self, blocks: BlockRanges) -> Where:
        return replace(self, blocks=blocks)

    def _modules(self, bound: Bound) -> Iterator[tuple[str, nn.Module, bool]]:
        """Name, module, and whether it is attention."""
        for name, _, nth in in_blocks(bound, self.blocks):
            stack, index = bound.stacks[nth], int(name.rpartition(".")[2])
            for path, module, kind in stack.attention(index):
                if kind in self.attention:
                    yield f"{name}.{path}", module, True
            for path, module in stack.feed_forward(index) if self.feed_forward else ():
                yield f"{name}.{path}", module, False
        if self.blocks is None:
            for name, module, kind in bound.attention:
                if kind in self.attention:
                    yield name, module, True
            for name, module in bound.feed_forward if self.feed_forward else ():
                yield name, module, False

    def _nothing(self, bound: Bound) -> str:
        wanted = [f"attention of kind {', '.join(self.attention)}"] if self.attention else []
        wanted += ["feed-forward"] if self.feed_forward else []
        kinds = ", ".join(sorted(bound.attention_kinds)) or "none"
        return (
            f"{bound.spec.name} has no {' and no '.join(wanted) or 'such sub-module'}; "
            f"its kinds of attention are {kinds}"
        )


class OutputSite:
    """One module whose output can be filled in; each of several, where a model calls it so often.

    Blocks may call one module for the image and for the text.
    """

    wants_arguments = False

    def __init__(
        self, part: Part, name: str, expected: int, attention: bool, feed_forward: bool = False
    ) -> None:
        self.part = part
        self.session = part.session
        self.attention, self.feed_forward = attention, feed_forward
        self.name, self.expected = name, expected
        self.trays = Trays()
        self.index, self.asks = part.index, part.asks
        self._outputs = [Outputs(part, name, expected)]

    def _next(self, moment: Moment) -> Outputs:
        """What is kept of the next call of the module within one denoiser call."""
        nth = moment.flights[self] = moment.flights.get(self, -1) + 1
        return self._of(nth) if nth else self._outputs[0]

    def _of(self, nth: int) -> Outputs:
        """What is kept of the call of that number."""
        for number in range(len(self._outputs), nth + 1):
            self._outputs.append(Outputs(self.part, f"{self.name}#{number}", self.expected))
        return self._outputs[nth]

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        acting = self.session.here.acting
        moment = acting[self.index] if acting else None
        if moment is None:
            return PASS
        outputs, call = self._next(moment), moment.call
        own = decision = moment.decision or self.part.decide(moment)
        if self.asks:
            when = self.part.recipe.when
            own = when.decide_at(moment, outputs.name, module, args, kwargs) or decision
            if own is not decision and id(module) in call.ranks.units:
                # A module may look different on another rank, which would wait for this one's
                # weights.
                own = Decision(compute=True)
        computes = decision.compute or own.compute
        values = None if computes else outputs.values(moment)
        if values is None:
            call.record.sites[outputs.name] = "computed"
            if own is not decision and own.compute and not own.keep:
                outputs.drop(moment)
                return PASS
            return COMPUTE
        self._note_skip(moment, outputs)
        return COMPUTE if call.dry_run else outputs.fill(moment, values)

    def _note_skip(self, moment: Moment, outputs: Outputs) -> None:
        recipe, call = self.part.recipe, moment.call
        record, action = call.record, recipe.how.action
        record.sites[outputs.name] = action
        if not recipe.where.exact:
            record.action = action
        if not call.dry_run and moment.flights[self] == 0:
            record.attention_skipped += self.attention
            record.feed_forward_skipped += self.feed_forward

    def ahead(self, module: nn.Module) -> tuple[Any, ...] | None:
        """See `Ahead`."""
        if self.asks:
            return None
        moment = self.part.moment
        if moment is None:
            return ()
        decision = self.part.decide(moment)
        if self.part.moment is None:
            # Just decided: in eager mode the module that asks first is noted.
            moment.record.sites[self._next(moment).name] = "computed"
        if decision.compute or moment.call.dry_run:
            return ()
        coming = self._outputs[moment.flights.get(self, -1) + 1 :]
        found = [(outputs, outputs.values(moment)) for outputs in coming]
        return tuple(COMPUTE if v is None else outputs.fill(moment, v) for outputs, v in found)

    def after(self, module: nn.Module, tray: Tray) -> None:
        """See `Ahead`."""
        moment = self.part.moment
        if moment is None:
            return
        computed = iter(tray.left)
        for nth in range(tray.calls):
            outputs = self._next(moment)
            skips = not self.part.decide(moment).compute
            if nth < len(tray.given) and tray.given[nth] is not COMPUTE:
                self._note_skip(moment, outputs)
                continue
            if skips and moment.call.dry_run and outputs.ready(moment):
                self._note_skip(moment, outputs)
            else:
                moment.record.sites[outputs.name] = "computed"
            self.leave((), {}, next(computed))

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        acting = self.session.here.acting
        moment = acting[self.index] if acting else None
        if moment is None:
            return output
        decision = moment.decision or self.part.decide(moment)
        if decision.compute and not decision.keep:
            return output
        outputs, call = self._of(moment.flights[self]), moment.call
        kept = output if call.conditional_half is None else self.to_keep(moment, output)
        if decision.compute or call.record.sites.get(outputs.name) == "computed":
            outputs.keep(moment, kept)
        else:
            outputs.compare(moment, kept)
        return output

    def to_keep(self, moment: Moment, output: Any) -> Any:
        """What of an output is to be remembered: of a batch of two guidance branches, the half
        that may stand in for the conditional one."""
        half = moment.call.conditional_half
        if half is None:
            return output
        leaves, shape = flatten(output)
        # A copy: a view would hold on to the other half.
        taken = [
            leaf.chunk(2)[half].clone() if isinstance(leaf, torch.Tensor) else leaf
            for leaf in leaves
        ]
        return unflatten(taken, shape)
