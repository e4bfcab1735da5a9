"""A contiguous range of one stack's blocks: what came in, what it added, what comes out instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Moment
from autocache.runtime.outputs import time_at
from autocache.runtime.store import Piece

if TYPE_CHECKING:
    from autocache.runtime.part import Part
    from autocache.runtime.record import StepRecord
    from autocache.spec.bind import BoundStack


@dataclass
class Flight:
    """One pass over a span: the streams as they came in, and whether the blocks are skipped."""

    skip: bool
    fills: bool
    """Skipped, and not only in a dry run, in which the blocks run."""
    streams: tuple[torch.Tensor | None, ...]
    versions: tuple[int, ...] = ()
    handed_on: tuple[tuple[torch.Tensor | None, ...], Any] | None = None
    """The streams that the last skipped block was given, and what it returned of them."""


@dataclass(frozen=True)
class Kept:
    """What a computed span left: on which device each stream that has a residual came out, and what
    else it returned."""

    streams: tuple[torch.device | None, ...]
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
        self.attention = sum(len(stack.attention(index)) for index in range(start, end))
        self.feed_forward = sum(len(stack.feed_forward(index)) for index in range(start, end))
        self.flow = stack.flow
        self.returns = stack.flow.names
        self.raw_input = raw_input
        self.expected = spans
        self.clones = False
        """The model writes into its streams: what came in must be copied to be kept."""

    def count(self, record: StepRecord) -> None:
        """Its blocks are not run."""
        record.blocks_skipped += self.length
        record.attention_skipped += self.attention
        record.feed_forward_skipped += self.feed_forward

    def others(self, moment: Moment) -> tuple[Any, ...]:
        """What a skipped block returns that is no stream."""
        return tuple(
            moment.store.get((self.name, nth))[-1].tensor if other is _STORED else other
            for nth, other in enumerate(moment.kept[self.name].others)
        )

    def open(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> Flight:
        decision = self.part.decide(moment)
        anchored = moment.flights.pop(self, None)
        if anchored is not None:
            # What enters the span may be on another device than what its residual counts from.
            streams, versions = anchored
        skip = not decision.compute and self._ready(moment, streams)
        if anchored is None:
            if skip or decision.keep or moment.call.dry_run:
                # Until its last block a skipped span hands on what it was given, and the model may
                # write into that (control residuals).
                copy = skip and self.length > 1
                streams = tuple(self._own(s, copy) for s in streams)
            versions = _versions(streams)
        moment.record.sites[self.name] = self.part.recipe.how.action if skip else "computed"
        if skip:
            moment.record.action = self.part.recipe.how.action
        flight = moment.flights[self.name] = Flight(
            skip, skip and not moment.call.dry_run, streams, versions
        )
        return flight

    def anchor(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> None:
        """Count the residual from these streams."""
        streams = tuple(self._own(s) for s in streams)
        moment.flights[self] = streams, _versions(streams)

    def _own(self, stream: torch.Tensor | None, copy: bool = False) -> torch.Tensor | None:
        if stream is None:
            return None
        overwritten = self.clones or self.part.session.ledger.copies or stream.is_inference()
        return stream.clone() if copy or overwritten else stream

    def _ready(self, moment: Moment, streams: tuple[torch.Tensor | None, ...]) -> bool:
        kept = moment.kept.get(self.name)
        if kept is None:
            return False
        pairs = zip(kept.streams, streams, self.returns, strict=True)
        others = (nth for nth, other in enumerate(kept.others) if other is _STORED)
        return all(
            at is None or moment.store.has((self.name, n), like=s) for at, s, n in pairs
        ) and all(moment.store.has((self.name, nth)) for nth in others)

    def close(self, moment: Moment, flight: Flight) -> tuple[torch.Tensor | None, ...]:
        """The streams as they leave a skipped span."""
        how = self.part.recipe.how
        left: list[torch.Tensor | None] = []
        kept = moment.kept[self.name].streams
        for device, stream, name in zip(kept, flight.streams, self.returns, strict=True):
            if device is not None and stream is not None:
                values = moment.store.get((self.name, name), like=stream)
                left.append((stream + how.fill(values, moment)).to(device))
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
        if moment.store.refuses(self.name):
            return
        how = self.part.recipe.how
        pieces, devices = [], []
        for stream, after, name in zip(flight.streams, left, self.returns, strict=True):
            if stream is None or after is None:
                devices.append(None)
                continue
            devices.append(after.device)
            if stream.shape != after.shape:
                # A stream that changes its length on the way has no residual: never skipped.
                return
            # The blocks may be spread over devices.
            residual = stream.clone() if self.raw_input else after.to(stream.device) - stream
            pieces.append(Piece((self.name, name), residual, how.keep, owned=True))
        others = list(self.flow.others(output))
        for nth, other in enumerate(others):
            if isinstance(other, torch.Tensor):
                pieces.append(Piece((self.name, nth), other))
                others[nth] = _STORED
        time = time_at(moment) if how.timed else None
        store = moment.store
        if store.put_all(self.name, pieces, moment.step, time=time, expected=self.expected):
            moment.kept[self.name] = Kept(tuple(devices), tuple(others))

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
        moment.note_errors(relative_l1(a, b) for a, b in pairs if a is not None and b is not None)


def _versions(streams: tuple[torch.Tensor | None, ...]) -> tuple[int, ...]:
    return tuple(-1 if s is None or s.is_inference() else s._version for s in streams)
