"""A contiguous range of one stack's blocks: what came in, what it added, what comes out instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.runtime.outputs import time_at
from autocache.runtime.store import Piece

if TYPE_CHECKING:
    from autocache.runtime.part import Part
    from autocache.runtime.record import StepRecord
    from autocache.spec.bind import BoundStack


Streams = tuple[torch.Tensor | None, ...]


@dataclass
class Flight:
    """One pass over a span, or over several that follow on each other: the streams as they came in,
    and whether the blocks are skipped."""

    skip: bool
    fills: bool
    """Skipped, and not only in a dry run, in which the blocks run."""
    streams: Streams
    spans: list[Span]
    versions: tuple[int, ...] = ()
    handed_on: tuple[Streams, Any] | None = None
    """The streams that the last skipped block was given, and what it returned of them."""
    left: Streams | None = None
    """What came out of its spans so far, where the next one is to go on with it."""
    safe: Streams | None = None
    """The same, for where it does not: what compiled code returned may be overwritten by then. None
    where it has no longer been thought of."""
    versions_left: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kept:
    """What a computed span left: under which name, in which shape and on which device each stream
    that has a residual came out, and what else it returned."""

    first: Span
    """From whose input the residual counts."""
    last: Span
    """Which adds it; the spans before it hand on what came in."""
    name: str
    streams: tuple[tuple[torch.Size, torch.device] | None, ...]
    others: tuple[Any, ...]


_STORED: Any = object()
"""Stands for a tensor that is in the store."""


class Span:
    """A range of one stack's blocks.

    The residual is anchored at the tail: the last block returns the streams as they entered plus
    the residual, so what the model adds between skipped blocks (control residuals) is inside it.
    What a block returns that is no stream is remembered as it is.

    Spans of stacks of which one is given the very tensors that the one before it returned have one
    residual together.
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
        self.attention = sum(len(stack.attention(index)) for index in range(start, end))
        self.feed_forward = sum(len(stack.feed_forward(index)) for index in range(start, end))
        self.flow = stack.flow
        self.returns = stack.flow.names
        self.raw_input = raw_input
        self.expected = spans
        self.clones = False
        """The model writes into its streams: what came in must be copied to be kept."""
        self.before: Span | None = None
        self.after: Span | None = None
        """That of the next stack, while it may be that it goes on with what leaves this one."""
        self.goes_on = False
        """It has been seen to."""
        self._ended = f"{self.name} ended"
        """Among what is remembered, the step at which it last left it to the next span to go on: it
        is still there where none did."""

    def count(self, record: StepRecord) -> None:
        """Its blocks are not run."""
        record.blocks_skipped += self.length
        record.attention_skipped += self.attention
        record.feed_forward_skipped += self.feed_forward

    def others(self, moment: Moment) -> tuple[Any, ...]:
        """What a skipped block returns that is no stream."""
        kept = moment.kept[self.name]
        return tuple(
            moment.store.get((kept.name, nth))[-1].tensor if other is _STORED else other
            for nth, other in enumerate(kept.others)
        )

    def follow(self, before: Span) -> None:
        """It may go on with what leaves another span."""
        if before.returns == self.returns and not (before.raw_input or self.raw_input):
            self.before, before.after = before, self

    def open(self, moment: Moment, streams: Streams) -> Flight:
        decision = self.part.decide(moment)
        if self.after is not None and self.name in moment.flights:
            # The model runs the stack several times: each pass adds a residual of its own.
            self.after = None
        flight = None if self.before is None else self._going_on(self.before, moment, streams)
        if flight is None:
            flight = self._taking_off(moment, streams, decision)
        moment.record.sites[self.name] = self.part.recipe.how.action if flight.skip else "computed"
        if flight.skip:
            moment.record.action = self.part.recipe.how.action
        moment.flights[self.name] = flight
        return flight

    def _taking_off(self, moment: Moment, streams: Streams, decision: Decision) -> Flight:
        anchored = moment.flights.pop(self, None)
        if anchored is not None:
            # What enters the span may be on another device than what its residual counts from.
            streams, versions = anchored
        skip = not decision.compute and self._ready(moment, streams)
        if anchored is None:
            if skip or decision.keep or moment.call.dry_run:
                # Until its last block a skipped span hands on what it was given, and the model may
                # write into that (control residuals).
                copy = skip and (self.length > 1 or moment.kept[self.name].last is not self)
                streams = tuple([self._own(s, copy) for s in streams])
            versions = _versions(streams)
        return Flight(skip, skip and not moment.call.dry_run, streams, [self], versions)

    def _going_on(self, before: Span, moment: Moment, streams: Streams) -> Flight | None:
        """The flight over the span before, where it goes on through this one."""
        flight = moment.flights.get(before.name)
        if flight is None or flight.left is None:
            return None
        moment.memory.pop(before._ended, None)
        left, flight.left = flight.left, None
        pairs = () if flight.skip else zip(streams, left, strict=True)
        if not all(now is then for now, then in pairs):
            before.stop(moment, flight)
            return None
        before.goes_on = True
        flight.spans.append(self)
        flight.handed_on = None
        return flight

    def stop(self, moment: Moment, flight: Flight) -> None:
        """Nobody goes on with what leaves it: its residual is its own from now on."""
        self.after = None
        safe = flight.safe
        if safe is not None and _versions(safe) == flight.versions_left:
            self._keep(moment, flight, safe, ())

    def anchor(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> None:
        """Count the residual from these streams."""
        streams = tuple(self._own(s) for s in streams)
        moment.flights[self] = streams, _versions(streams)

    def _own(self, stream: torch.Tensor | None, copy: bool = False) -> torch.Tensor | None:
        if stream is not None and (copy or self.clones):
            return stream.clone()
        return self._safe(stream)

    def _safe(self, stream: torch.Tensor | None) -> torch.Tensor | None:
        return stream.clone() if stream is not None and self._is_exposed(stream) else stream

    def _is_exposed(self, stream: torch.Tensor) -> bool:
        """Whether someone may write to it unnoticed."""
        return self.part.session.ledger.copies or stream.is_inference()

    def _ready(self, moment: Moment, streams: Streams) -> bool:
        kept = moment.kept.get(self.name)
        if kept is None or kept.first is not self:
            return False
        store, name = moment.store, kept.name
        for left, stream, stream_name in zip(kept.streams, streams, self.returns, strict=True):
            if left is None:
                continue
            like = None if stream is None else _spread(stream, left[0])
            if like is None or not store.has((name, stream_name), like=like):
                return False
        others = (nth for nth, other in enumerate(kept.others) if other is _STORED)
        return all(store.has((name, nth)) for nth in others)

    def close(self, moment: Moment, flight: Flight) -> Streams | None:
        """The streams as they leave a skipped span; None where the next span goes on from here."""
        kept = moment.kept[self.name]
        if kept.last is not self:
            flight.left = ()
            return None
        how, store = self.part.recipe.how, moment.store
        filled: list[torch.Tensor | None] = []
        for left, stream, name in zip(kept.streams, flight.streams, self.returns, strict=True):
            whole = None if left is None or stream is None else _spread(stream, left[0])
            if left is None or whole is None:
                filled.append(None)
                continue
            values = store.get((kept.name, name), like=whole)
            filled.append((whole + how.fill(values, moment)).to(left[1]))
        return tuple(filled)

    def keep(self, moment: Moment, flight: Flight, output: Any) -> None:
        """Remember the residual of a computed span; or leave that to the one that may go on."""
        left, after = self.flow.split(output), self.after
        if after is None or not self._may_go_on(after, moment):
            self._keep(moment, flight, left, self.flow.others(output))
            return
        safe = left
        if not self.goes_on:
            safe = tuple([self._safe(stream) for stream in left])
        elif any(stream is not None and self._is_exposed(stream) for stream in left):
            safe = None
        flight.left, flight.safe = left, safe
        flight.versions_left = () if safe is None else _versions(safe)
        moment.memory[self._ended] = moment.step

    def _may_go_on(self, after: Span, moment: Moment) -> bool:
        if moment.memory.get(self._ended, moment.step) != moment.step:
            # The span after it was not reached when this was last tried.
            self.after = None
            return False
        return after.name not in moment.flights

    def _keep(self, moment: Moment, flight: Flight, left: Streams, given: Sequence[Any]) -> None:
        spans, store = flight.spans, moment.store
        name = " + ".join([span.name for span in spans])
        for span in spans:
            before = moment.kept.pop(span.name, None)
            if before is not None and before.name != name:
                store.drop(before.name)
        if self._written_to(flight):
            spans[0].clones = True
            return
        if store.refuses(name):
            return
        how = self.part.recipe.how
        pieces: list[Piece] = []
        streams: list[tuple[torch.Size, torch.device] | None] = []
        for stream, after, stream_name in zip(flight.streams, left, self.returns, strict=True):
            if stream is None or after is None:
                streams.append(None)
                continue
            streams.append((after.shape, after.device))
            if _spread(stream, after.shape) is None:
                # A stream that changes its length on the way has no residual: never skipped.
                for span in spans:
                    span.after = None
                return
            # The blocks may be spread over devices.
            residual = stream.clone() if self.raw_input else after.to(stream.device) - stream
            pieces.append(Piece((name, stream_name), residual, how.keep, owned=True))
        others = list(given)
        for nth, other in enumerate(others):
            if isinstance(other, torch.Tensor):
                pieces.append(Piece((name, nth), other))
                others[nth] = _STORED
        time = time_at(moment) if how.timed else None
        expected = max(1, self.expected - len(spans) + 1)
        if store.put_all(name, pieces, moment.step, time=time, expected=expected):
            kept = Kept(spans[0], self, name, tuple(streams), tuple(others))
            for span in spans:
                moment.kept[span.name] = kept

    def _written_to(self, flight: Flight) -> bool:
        pairs = zip(flight.streams, flight.versions, strict=True)
        return any(
            stream is not None and not stream.is_inference() and stream._version != version
            for stream, version in pairs
        )

    def compare(self, moment: Moment, flight: Flight, output: Any) -> None:
        """The error that a dry run would have made here."""
        filled = self.close(moment, flight)
        if filled is not None:
            pairs = zip(filled, self.flow.split(output), strict=True)
            found = [(a, b) for a, b in pairs if a is not None and b is not None]
            moment.note_errors(relative_l1(a, b) for a, b in found)


def _spread(stream: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """A stream in the shape in which it leaves: a single sample may come in for the whole batch, as
    the negative prompt of FLUX does. None where it is no matter of repeating it."""
    if stream.shape == shape:
        return stream
    alike = zip(stream.shape, shape, strict=False)
    if stream.ndim != len(shape) or any(one not in (1, other) for one, other in alike):
        return None
    return stream.expand(shape)


def _versions(streams: Streams) -> tuple[int, ...]:
    return tuple([-1 if s is None or s.is_inference() else s._version for s in streams])
