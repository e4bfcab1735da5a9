"""A contiguous range of each block stack, skipped as one: its input plus its residual comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import ParameterError
from autocache.runtime.distance import relative_l1
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.moment import Moment
from autocache.where.base import BlockRanges, Where, check, first_time

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


@dataclass
class Flight:
    """One pass over a span: the streams as they came in, and whether the blocks are skipped."""

    skip: bool
    streams: tuple[torch.Tensor | None, ...]
    versions: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Kept:
    """What a computed span left: which streams have a residual, and what else it returned."""

    streams: tuple[bool, ...]
    others: tuple[Any, ...]


_STORED: Any = object()
"""Stands for a tensor that is in the store."""


class Span:
    """A range of one stack's blocks.

    The residual is anchored at the tail: the last block returns the streams as they entered plus
    the residual, so what the model adds between skipped blocks (control residuals) is inside it.
    What a block returns that is no stream is remembered as it is.
    """

    def __init__(
        self,
        part: Part,
        stack: BoundStack,
        start: int,
        end: int,
        raw_input: bool,
        spans: int,
    ) -> None:
        self.part = part
        self.name = f"{stack.path}[{start}:{end}]"
        self.length = end - start
        self.flow = stack.flow
        self.returns = stack.flow.names
        self.raw_input = raw_input
        self.expected = spans * len(self.returns)
        self.clones = False
        """The model writes into its streams: what came in must be copied to be kept."""

    def others(self, moment: Moment) -> tuple[Any, ...]:
        """What a skipped block returns that is no stream."""
        return tuple(
            moment.store.get((self.name, nth))[-1].tensor if other is _STORED else other
            for nth, other in enumerate(moment.kept[self.name].others)
        )

    def open(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> Flight:
        decision = self.part.decide(moment)
        skip = not decision.compute and self._ready(moment, streams)
        anchored = moment.flights.pop(self, None)
        if anchored is not None:
            streams, versions = anchored
        else:
            if skip or decision.keep or moment.call.dry_run:
                # Until its last block a skipped span hands on what it was given, and the model may
                # write into that (control residuals).
                copy = skip and self.length > 1
                streams = tuple(self._own(s, copy) for s in streams)
            versions = _versions(streams)
        moment.record.sites[self.name] = self.part.recipe.how.action if skip else "computed"
        if skip:
            moment.record.action = self.part.recipe.how.action
        flight = moment.flights[self.name] = Flight(skip, streams, versions)
        return flight

    def anchor(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> None:
        """Count the residual from these streams."""
        streams = tuple(self._own(s) for s in streams)
        moment.flights[self] = streams, _versions(streams)

    def _own(self, stream: torch.Tensor | None, copy: bool = False) -> torch.Tensor | None:
        if stream is not None and (copy or self.clones or stream.is_inference()):
            return stream.clone()
        return stream

    def _ready(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> bool:
        kept = moment.kept.get(self.name)
        if kept is None:
            return False
        pairs = zip(kept.streams, streams, self.returns, strict=True)
        others = (nth for nth, other in enumerate(kept.others) if other is _STORED)
        return all(
            not has or moment.store.get((self.name, n), like=s) for has, s, n in pairs
        ) and all(moment.store.get((self.name, nth)) for nth in others)

    def close(self, moment: Moment, flight: Flight) -> tuple[torch.Tensor | None, ...]:
        """The streams as they leave a skipped span."""
        how = self.part.recipe.how
        left: list[torch.Tensor | None] = []
        kept = moment.kept[self.name].streams
        for has, stream, name in zip(kept, flight.streams, self.returns, strict=True):
            if has and stream is not None:
                values = moment.store.get((self.name, name), like=stream)
                left.append(stream + how.fill(values, moment))
            else:
                left.append(None)
        return tuple(left)

    def keep(self, moment: Moment, flight: Flight, output: Any) -> None:
        """Remember the residual of a computed span."""
        left = self.flow.split(output)
        moment.kept.pop(self.name, None)
        if self._written_to(flight):
            self.clones = True
            return
        kept = []
        how = self.part.recipe.how
        time = moment.call.time_of(moment.step) if how.timed else None
        for stream, after, name in zip(flight.streams, left, self.returns, strict=True):
            if stream is None or after is None:
                kept.append(False)
                continue
            if stream.shape != after.shape:
                # A stream that changes its length on the way has no residual: never skipped.
                return
            kept.append(True)
            residual = stream.clone() if self.raw_input else after - stream
            moment.store.put(
                (self.name, name),
                residual,
                moment.step,
                keep=how.keep,
                time=time,
                owned=True,
                expected=self.expected,
            )
        moment.kept[self.name] = Kept(tuple(kept), self._keep_others(moment, output))

    def _keep_others(self, moment: Moment, output: Any) -> tuple[Any, ...]:
        others = list(self.flow.others(output))
        for nth, other in enumerate(others):
            if isinstance(other, torch.Tensor):
                moment.store.put((self.name, nth), other, moment.step)
                others[nth] = _STORED
        return tuple(others)

    def _written_to(self, flight: Flight) -> bool:
        pairs = zip(flight.streams, flight.versions, strict=True)
        return any(
            stream is not None and not stream.is_inference() and stream._version != version
            for stream, version in pairs
        )

    def compare(self, moment: Moment, flight: Flight, output: Any) -> None:
        """The error that a dry run would have made here."""
        left = self.flow.split(output)
        pairs = zip(self.close(moment, flight), left, strict=True)
        errors = [relative_l1(a, b) for a, b in pairs if a is not None and b is not None]
        moment.record.error = max([moment.record.error or 0.0, *errors])


def _versions(streams: tuple[torch.Tensor | None, ...]) -> tuple[int, ...]:
    return tuple(-1 if s is None or s.is_inference() else s._version for s in streams)


class Anchor:
    """The first block of a stack, from whose input a span counts its residual."""

    def __init__(self, span: Span, signature: Signature) -> None:
        self.span = span
        self.signature = signature
        self.session = span.part.session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.span.part.moment
        if moment is not None:
            names = self.span.returns
            streams = tuple(self.signature.get(name, args, kwargs) for name in names)
            self.span.anchor(moment, streams)
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


class BlockSite:
    """One block of a span."""

    def __init__(self, span: Span, stack: BoundStack, index: int, first: bool, last: bool) -> None:
        self.span = span
        self.signature = stack.binders[index]
        self.attention = len(stack.attention(index))
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
            flight = span.open(moment, self._streams(args, kwargs))
        else:
            flight = moment.flights.get(span.name)
        if flight is None or not flight.skip or moment.call.dry_run:
            return COMPUTE if self.last else PASS
        if first_time(moment, self):
            moment.record.blocks_skipped += 1
            moment.record.attention_skipped += self.attention
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
