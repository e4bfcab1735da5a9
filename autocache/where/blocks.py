"""A contiguous range of each block stack, skipped as one: its input plus its residual comes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import is_
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import ParameterError
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.parallelism import share
from autocache.where.base import BlockRanges, Where, check, first_time
from autocache.where.span import Flight, Span

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
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
        before: Span | None = None
        for stack, (start, end) in spans:
            raw_input = self.raw_input_for_one and end - start == 1
            if stack.spec.each:
                for index in range(start, end):
                    span = Span(part, stack, index, index + 1, raw_input, expected)
                    sites += self._blocks(span, stack, index, index + 1)
                before = None
                continue
            span = Span(part, stack, start, end, raw_input, expected)
            if before is not None and start == 0 and not stack.flow.extras:
                span.follow(before)
            before = span if end == len(stack.blocks) and not stack.flow.extras else None
            if self.from_input and start > 0:
                sites.append((stack.blocks[0], Anchor(span, stack.binders[0])))
            sites += self._blocks(span, stack, start, end)
        return sites

    @staticmethod
    def _blocks(span: Span, stack: BoundStack, start: int, end: int) -> list:
        ends = (start, end - 1)
        return [
            (
                stack.blocks[index],
                BlockSite(span, stack, index, index == start, index == end - 1)
                if index in ends
                else InnerSite(span, stack, index),
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
    """The first or the last block of a span, or both."""

    def __init__(self, span: Span, stack: BoundStack, index: int, first: bool, last: bool) -> None:
        self.span = self.unit = span
        self.signature = stack.binders[index]
        self.session = span.part.session
        self.first = first
        self.last = last

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment, span = self.span.part.moment, self.span
        if moment is None:
            return PASS
        if self.first:
            if moment.call.ranks.splits:
                args, kwargs = share(module, args, kwargs)
            flight = span.open(moment, self._streams(args, kwargs))
        else:
            flight = moment.flights.get(span.name)
        if flight is None or not flight.fills:
            return COMPUTE if self.last else PASS
        if not self.last:
            return self._hand_on(moment, flight, self._streams(args, kwargs), args, kwargs)
        if first_time(moment, self):
            span.count(moment.record)
        left = span.close(moment, flight)
        if left is None:
            return self._hand_on(moment, flight, self._streams(args, kwargs), args, kwargs)
        return self._joined(moment, left, args, kwargs)

    def _streams(self, args: tuple, kwargs: dict[str, Any]) -> tuple[torch.Tensor | None, ...]:
        return tuple(self.signature.get(name, args, kwargs) for name in self.span.returns)

    def _joined(self, moment: Moment, streams: tuple, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What a block returns with these streams."""
        span = self.span
        given = {name: self.signature.get(name, args, kwargs) for name in span.flow.containers}
        return span.flow.join(streams, given, span.others(moment) if span.flow.extras else ())

    def _hand_on(
        self, moment: Moment, flight: Flight, streams: tuple, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a skipped block returns that others come after: the streams it was given."""
        output = self._joined(moment, streams, args, kwargs)
        flight.handed_on = None if self.span.flow.containers else (streams, output)
        return output

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


class InnerSite(BlockSite):
    """A block between those two. There are many of them, and mostly each is given what the one
    before it handed on."""

    only_skips = True

    def __init__(self, span: Span, stack: BoundStack, index: int) -> None:
        super().__init__(span, stack, index, first=False, last=False)
        self.part, self.name, self.returns = span.part.index, span.name, span.returns
        self.positions = [self.signature.positions.get(name, sys.maxsize) for name in self.returns]
        self.furthest = max(self.positions)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        acting = self.session.here.acting
        moment = acting[self.part] if acting else None
        flight = None if moment is None else moment.flights.get(self.name)
        if moment is None or flight is None or not flight.fills:
            return PASS
        if flight.handed_on is not None:
            before, output = flight.handed_on
            if args and len(args) > self.furthest:
                given = map(args.__getitem__, self.positions)
            else:
                given = map(kwargs.get, self.returns)
            if all(map(is_, given, before)):
                return output
        return self._hand_on(moment, flight, self._streams(args, kwargs), args, kwargs)
