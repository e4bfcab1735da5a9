"""A contiguous range of each block stack, skipped as one: its input plus its residual comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import ParameterError
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.parallelism import share
from autocache.where.base import BlockRanges, Where, check, first_time
from autocache.where.span import Span

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack, Signature


@dataclass(frozen=True)
class Blocks(Where):
    """A half-open range of blocks, counted over all stacks or given for each stack's path.

    A stack that is not named is left alone. Without a range, all blocks but the share `margin` of
    each stack at both its ends. `only` narrows the choice further. `raw_input_for_one` restores an
    upstream bug (see `dit_block`). `from_input` counts the residual from the input of the stack's
    first block, though that runs: what the blocks before the range add is then filled in as well.
    """

    blocks: BlockRanges | None = None
    margin: float = 0.0
    raw_input_for_one: bool = False
    only: BlockRanges | None = None
    from_input: bool = False

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        sites: list[tuple[nn.Module, Site]] = []
        spans = self._spans(bound)
        expected = sum(end - start if stack.spec.each else 1 for stack, (start, end) in spans)
        for stack, (start, end) in spans:
            raw_input = self.raw_input_for_one and end - start == 1
            if stack.spec.each:
                for index in range(start, end):
                    span = Span(part, stack, index, index + 1, raw_input, expected)
                    sites += self._blocks(span, stack, index, index + 1)
                continue
            span = Span(part, stack, start, end, raw_input, expected)
            if self.from_input and start > 0:
                sites.append((stack.blocks[0], Anchor(span, stack.binders[0])))
            sites += self._blocks(span, stack, start, end)
        return sites

    @staticmethod
    def _blocks(span: Span, stack: BoundStack, start: int, end: int) -> list:
        return [
            (
                stack.blocks[index],
                BlockSite(span, stack, index, first=index == start, last=index == end - 1),
            )
            for index in range(start, end)
        ]

    def within(self, blocks: BlockRanges) -> Where:
        return replace(self, only=blocks)

    def _spans(self, bound: Bound) -> list[tuple[BoundStack, tuple[int, int]]]:
        bound.stack()
        spans = []
        for stack in bound.stacks:
            start, end = self._range(bound, stack, self.blocks, self.margin)
            low, high = self._range(bound, stack, self.only, 0.0)
            if max(start, low) < min(end, high):
                spans.append((stack, (max(start, low), min(end, high))))
        if not spans:
            raise ParameterError(
                f"the chosen blocks are none of the {bound.block_count} of {bound.spec.name}"
            )
        return spans

    @staticmethod
    def _range(
        bound: Bound, stack: BoundStack, blocks: BlockRanges | None, margin: float
    ) -> tuple[int, int]:
        count = len(stack.blocks)
        if blocks is None:
            spare = round(margin * count)
            return spare, count - spare
        check(bound, blocks)
        if isinstance(blocks, Mapping):
            return blocks.get(stack.path, (0, 0))
        return max(0, blocks[0] - stack.offset), min(count, blocks[1] - stack.offset)


class Anchor:
    """The first block of a stack, from whose input a span counts its residual."""

    def __init__(self, span: Span, signature: Signature) -> None:
        self.span = span
        self.signature = signature
        self.session = span.part.session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.span.part.moment
        if moment is not None:
            if moment.call.ranks.splits:
                args, kwargs = share(module, args, kwargs)
            names = self.span.returns
            streams = tuple(self.signature.get(name, args, kwargs) for name in names)
            self.span.anchor(moment, streams)
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


class BlockSite:
    """One block of a span."""

    def __init__(self, span: Span, stack: BoundStack, index: int, first: bool, last: bool) -> None:
        self.span = self.unit = span
        self.signature = stack.binders[index]
        self.attention = len(stack.attention(index))
        self.feed_forward = len(stack.feed_forward(index))
        self.session = span.part.session
        self.containers = span.flow.containers
        self.first = first
        self.last = last

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.span.part.moment
        if moment is None:
            return PASS
        span = self.span
        if self.first:
            if moment.call.ranks.splits:
                args, kwargs = share(module, args, kwargs)
            flight = span.open(moment, self._streams(args, kwargs))
        else:
            flight = moment.flights.get(span.name)
        if flight is None or not flight.skip or moment.call.dry_run:
            return COMPUTE if self.last else PASS
        if first_time(moment, self):
            moment.record.blocks_skipped += 1
            moment.record.attention_skipped += self.attention
            moment.record.feed_forward_skipped += self.feed_forward
        streams = span.close(moment, flight) if self.last else self._streams(args, kwargs)
        given = {name: self.signature.get(name, args, kwargs) for name in self.containers}
        return span.flow.join(streams, given, span.others(moment) if span.flow.extras else ())

    def _streams(self, args: tuple, kwargs: dict[str, Any]) -> tuple[torch.Tensor | None, ...]:
        return tuple(self.signature.get(name, args, kwargs) for name in self.span.returns)

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if not self.last:
            return output
        moment = self.span.part.moment
        flight = None if moment is None else moment.flights.get(self.span.name)
        if moment is None or flight is None:
            return output
        if flight.skip:
            self.span.compare(moment, flight, output)
        else:
            decision = self.span.part.decide(moment)
            if decision.keep or not decision.compute:
                self.span.keep(moment, flight, output)
        return output
