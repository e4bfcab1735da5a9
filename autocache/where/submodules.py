"""Sub-modules, attention by kind and feed-forward: their output is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import DoesNotApplyError
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.outputs import Outputs, flatten, unflatten
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
            (module, OutputSite(part, name, len(found), attention))
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

    def __init__(self, part: Part, name: str, expected: int, attention: bool) -> None:
        self.part = part
        self.session = part.session
        self.attention = attention
        self.name, self.expected = name, expected
        self._outputs = [Outputs(part, name, expected)]

    def _of(self, nth: int) -> Outputs:
        """What is kept of the call of that number within one denoiser call."""
        for number in range(len(self._outputs), nth + 1):
            self._outputs.append(Outputs(self.part, f"{self.name}#{number}", self.expected))
        return self._outputs[nth]

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is None:
            return PASS
        nth = moment.flights[self] = moment.flights.get(self, -1) + 1
        outputs = self._of(nth)
        sites, name, recipe = moment.record.sites, outputs.name, self.part.recipe
        decision = self.part.decide(moment)
        own = recipe.when.decide_at(moment, name, module, args, kwargs) or decision
        if decision.compute or own.compute or not outputs.ready(moment):
            sites[name] = "computed"
            if own is not decision and own.compute and not own.keep:
                outputs.drop(moment)
                return PASS
            return COMPUTE
        sites[name] = recipe.how.action
        if not recipe.where.exact:
            moment.record.action = recipe.how.action
        if moment.call.dry_run:
            return COMPUTE
        moment.record.attention_skipped += self.attention and nth == 0
        return outputs.fill(moment)

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.part.moment
        if moment is None:
            return output
        decision = self.part.decide(moment)
        outputs = self._of(moment.flights[self])
        if not decision.compute and moment.record.sites.get(outputs.name) != "computed":
            outputs.compare(moment, self.to_keep(moment, output))
        elif decision.keep or not decision.compute:
            outputs.keep(moment, self.to_keep(moment, output))
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
