"""The one owner of cached tensors: accounts for them, guards them, and honours the memory limit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from autocache.runtime.claims import Claim
from autocache.runtime.encodings import Held
from autocache.runtime.encodings.base import kept_alive
from autocache.runtime.entry import Entry, Value, hold
from autocache.runtime.ledger import Ledger


class Piece(NamedTuple):
    """One of the tensors that a place keeps, and for how many steps.

    One that is not `owned` may be written to by the model later.
    """

    key: Hashable
    tensor: torch.Tensor
    keep: int = 1
    owned: bool = False


class Store:
    """The cached tensors of one guidance branch, each with its last few values.

    A place keeps several under keys `(name, ...)`, all of them or none; a rule keeps one under each
    name. Stores of one `group` are those of the guidance branches beside each other.
    """

    def __init__(self, ledger: Ledger, group: Hashable = None, denoiser: str = "") -> None:
        self.group = object() if group is None else group
        self.denoiser = denoiser
        self.claims: dict[str, Claim] = {}
        self.useless = False
        """A rule cannot remember what it compares with, so that it will never skip anything."""
        self._ledger = ledger
        self._entries: dict[str, dict[Hashable, tuple[Entry, ...]]] = {}
        self._written_to: set[Hashable] = set()

    @property
    def copies(self) -> bool:
        """Whether what compiled code returned may be overwritten by its next call."""
        return self._ledger.copies

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def put(
        self,
        key: str,
        tensor: torch.Tensor,
        step: int,
        *,
        time: float | None = None,
        keep: int = 1,
        owned: bool = False,
    ) -> bool:
        """Remember what a rule compares with; False where there is no room for it.

        One that is not `owned` may be written to by the model later, which `get` notices; from then
        on its like is cloned. Of a step, what comes last counts.

        Raises:
            MemoryLimitError: it does not fit the limit, and may not be done without.
        """
        return self.put_all(key, [Piece(key, tensor, keep, owned)], step, time=time, exact=True)

    def put_all(
        self,
        name: str,
        pieces: Sequence[Piece],
        step: int,
        *,
        time: float | None = None,
        expected: int = 1,
        exact: bool = False,
    ) -> bool:
        """Remember all that a place keeps of a step; False where there is no room for all of it.

        `expected` places like it keep something in this guidance branch. What is `exact` is never
        held in a form that loses precision.

        Raises:
            MemoryLimitError: as `put` does.
        """
        if not pieces:
            return True
        with self._ledger.lock:
            claim, budget = None, self._ledger.budget
            if budget is not None:
                shapes = tuple((p.tensor.shape, p.tensor.dtype, p.keep) for p in pieces)
                device = pieces[0].tensor.device
                claim = budget.admit(self, Claim(name, shapes, device, exact, expected))
                if claim.refused:
                    return False
            values = self._entries.get(name)
            if values is None:
                values = self._entries[name] = {}
            for piece in pieces:
                self._remember(name, values, piece, step, time, claim)
        return True

    def refuses(self, name: str) -> bool:
        """Whether there is no room for what a place keeps."""
        claim = self.claims.get(name)
        return claim is not None and claim.refused

    def holds(self, name: str) -> bool:
        """Whether a place or a rule keeps anything."""
        return name in self._entries

    def has(self, key: Hashable, like: torch.Tensor | None = None) -> bool:
        """Whether `get` has anything to give."""
        return bool(self._entries_of(key, _name(key), like))

    def get(self, key: Hashable, like: torch.Tensor | None = None) -> tuple[Value, ...]:
        """The last values, oldest first; empty when there are none, when they do not fit `like` in
        shape, dtype or device, or when someone wrote into them."""
        name = _name(key)
        entries = self._entries_of(key, name, like)
        if not entries:
            return ()
        if self._ledger.away:
            self._fetch_next(name)
        values = tuple([entry.value() for entry in entries])
        if self._ledger.away:
            self._ledger.arrived(entry.held for entry in entries)
        return values

    def _entries_of(self, key: Hashable, name: str, like: torch.Tensor | None) -> tuple[Entry, ...]:
        """What is held under a key and of use; what is not is let go of."""
        place = self._entries.get(name)
        entries = () if place is None else place.get(key, ())
        for entry in entries:
            if entry.written_to:
                self._written_to.add(key)
                self.drop(name)
                return ()
            if like is not None and not fits(entry.held, like):
                self.drop(name)
                return ()
        return entries

    def drop(self, name: str) -> None:
        """Let go of all that a place, or a rule under that name, keeps."""
        with self._ledger.lock:
            self.let_go(name)
            claim = self.claims.get(name)
            if claim is not None and self._ledger.budget is not None:
                self._ledger.budget.withdraw(self, claim)

    def clear(self) -> None:
        for name in {**self._entries, **self.claims}:
            self.drop(name)
        self.useless = False

    def let_go(self, name: str) -> None:
        """Free what is held, and leave it claimed."""
        for entries in self._entries.pop(name, {}).values():
            for entry in entries:
                self._release(name, entry)

    def encode_again(self, claim: Claim) -> None:
        """Hold what is kept in the form that was chosen since."""
        for key, entries in list(self._entries.get(claim.name, {}).items()):
            if any(entry.written_to for entry in entries):
                self.let_go(claim.name)
                return
            again = []
            for entry in entries:
                held = hold(entry.held.decode(), claim, owned=False)
                self._release(claim.name, entry)
                again.append(self._entry(claim.name, held, entry.step, entry.time))
            self._entries[claim.name][key] = tuple(again)

    def _remember(
        self,
        name: str,
        values: dict[Hashable, tuple[Entry, ...]],
        piece: Piece,
        step: int,
        time: float | None,
        claim: Claim | None,
    ) -> None:
        key, tensor, keep, owned = piece
        if tensor.requires_grad:
            tensor = tensor.detach()
        before = values.get(key, ())
        if claim is None and len(before) == keep and before[-1].step != step:
            oldest = before[0]
            if not self._is_others(key, tensor, owned) and oldest.exchange(tensor, step, time):
                values[key] = (*before[1:], oldest)
                return
        # What goes is let go of before what comes is made.
        kept = self._make_room(name, values, piece, step) if before else ()
        if self.copies and not owned:
            # At once: a copy in the background may come after what compiled code writes there.
            tensor, owned = tensor.clone(), True
        held = hold(tensor, claim, owned)
        if held.parts[0] is tensor and self._is_foreign(key, tensor, owned):
            held = hold(tensor.clone(), claim, owned=True)
        values[key] = (*kept, self._entry(name, held, step, time))

    def _make_room(
        self, name: str, values: dict[Hashable, tuple[Entry, ...]], piece: Piece, step: int
    ) -> tuple[Entry, ...]:
        """What stays beside the value of a step that is to come."""
        before = values[piece.key]
        earlier = before[:-1] if before and before[-1].step == step else before
        values[piece.key] = kept = earlier[max(0, len(earlier) - piece.keep + 1) :]
        for entry in before:
            if entry not in kept:
                self._release(name, entry)
        return kept

    def _is_foreign(self, key: Hashable, tensor: torch.Tensor, owned: bool) -> bool:
        """Whether a copy must be kept: others write to it, or it is a view that keeps more alive
        than what it shows."""
        return self._is_others(key, tensor, owned) or kept_alive(tensor) > tensor.nbytes

    def _is_others(self, key: Hashable, tensor: torch.Tensor, owned: bool) -> bool:
        """Whether someone may write to it unnoticed, or did so to its like."""
        return not owned and (
            self._ledger.copies or key in self._written_to or tensor.is_inference()
        )

    def _entry(self, name: str, held: Held, step: int, time: float | None) -> Entry:
        self._ledger.add(self.denoiser, name, held)
        return Entry(held, step, time)

    def _release(self, name: str, entry: Entry) -> None:
        self._ledger.release(self.denoiser, name, entry.held)

    def _fetch_next(self, name: str) -> None:
        """Begin to bring back what comes after a place, where there is room for it."""
        with self._ledger.lock:
            names = list(self._entries)
            after = names.index(name) + 1
            for entries in self._entries[names[after]].values() if after < len(names) else ():
                for entry in entries:
                    self._ledger.fetch(entry.held)


def _name(key: Any) -> str:
    return key[0] if isinstance(key, tuple) else key


def fits(held: Held | torch.Tensor, live: torch.Tensor) -> bool:
    """Whether something held can stand in for a tensor like `live`."""
    return held.shape == live.shape and held.dtype == live.dtype and held.device == live.device
