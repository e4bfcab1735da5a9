"""How what a strategy wants to keep is made to fit a limit."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autocache.errors import MemoryLimitError
from autocache.runtime import fit
from autocache.runtime.claims import Claim, Claims, places, wanted
from autocache.runtime.encodings import LOSSY, PLAIN, Encoding

if TYPE_CHECKING:
    import torch

    from autocache.runtime.store import Store

logger = logging.getLogger("autocache")


class Budget:
    """Promises bytes to claims, and never more than the limit in all.

    Everything is held as it is until something does not fit. Then the encodings among the `ways`
    are tried in their order, each for all that places keep: the first in which everything fits, by
    what is known of it so far. What does not fit in it goes to the host or is refused, and is
    computed then: in all guidance branches beside each other alike, since guidance magnifies what
    one of them is off by and the others are not.
    """

    def __init__(self, limit: int, ways: tuple[str, ...]) -> None:
        self.limit, self.ways = limit, ways
        self.promised = 0
        self.short = False
        """Something was refused."""
        self._keeps = False
        """Some place was not, and has not had to give up since."""
        self._stores: weakref.WeakSet[Store] = weakref.WeakSet()
        self._claims = 0
        self._encoding: Encoding = PLAIN
        self._position: object = None
        self._told: str | None = None
        self.missed: str | None = None
        """What was last said of places that found no room, if any did not."""

    def admit(self, store: Store, claim: Claim) -> Claim:
        """The claim, or the one like it that was made before, with what was decided on it.

        Raises:
            MemoryLimitError: it does not fit, and no way is left.
        """
        before = store.claims.get(claim.name)
        if before is not None and before.like(claim):
            return before
        if before is not None:
            store.drop(claim.name)
        self._stores.add(store)
        store.claims[claim.name] = claim
        self._claims += 1
        try:
            self._decide(store, claim)
        except MemoryLimitError:
            self.withdraw(store, claim)
            raise
        return claim

    def withdraw(self, store: Store, claim: Claim) -> None:
        """It is not made any more; with the last one everything begins anew."""
        del store.claims[claim.name]
        self.promised -= claim.granted
        self._claims -= 1
        if self._claims == 0:
            self._encoding, self.short, self._keeps = PLAIN, False, False

    def lend(self, count: int) -> bool:
        """Promise bytes for a moment, if there are any left."""
        if self.promised + count > self.limit:
            return False
        self.promised += count
        return True

    def give_back(self, count: int) -> None:
        """What was lent is not needed any more."""
        self.promised -= count

    def check(self) -> None:
        """Raises MemoryLimitError where everything was refused, so that nothing can be skipped."""
        if self.short and not self._keeps:
            raise MemoryLimitError(fit.refusal(self.limit, self._branches()))

    def tell(self, position: object) -> None:
        """Say in the log what was chosen, once the step is over in which that was done.

        `position` is that of the denoiser call that begins: its generation and step.
        """
        if self._claims == 0 or self._position is None:
            self._position = position
            return
        if position == self._position:
            return
        self._position = position
        told = fit.choice(self.limit, self._branches())
        if told != self._told:
            self._told = told
            self.missed = told if self.short else self.missed
            logger.log(logging.WARNING if self.short else logging.INFO, "%s", told)

    def _branches(self) -> list[Claims]:
        return [store.claims for store in self._stores if store.claims]

    def _decide(self, store: Store, claim: Claim) -> None:
        beside = self._beside(store)
        if store.useless or any(other.refuses(claim.name) for other in beside):
            claim.refused = self.short = True
            return
        if self.promised + claim.size(self._encoding) > self.limit:
            self._choose(claim.device)
        claim.encoding = PLAIN if claim.exact else self._encoding
        need = claim.size(claim.encoding)
        while self.promised + need > self.limit:
            victim = _victim(store, claim, beside)
            if victim is None:
                self._overflow(claim, [store, *beside])
                return
            self._take(victim, [store, *beside])
        claim.granted = need
        self.promised += need
        self._keeps |= not claim.exact

    def _beside(self, store: Store) -> list[Store]:
        return [each for each in self._stores if each is not store and each.group == store.group]

    def _overflow(self, claim: Claim, branches: Sequence[Store]) -> None:
        if "host" in self.ways and claim.device.type != "cpu":
            claim.away = True
            self._keeps |= not claim.exact
        elif "fewer" not in self.ways:
            raise MemoryLimitError(fit.refusal(self.limit, self._branches()))
        elif claim.exact:
            # Nothing is of use to a rule that cannot compare anything in one of the branches.
            for store in branches:
                store.useless = True
                for name in list(store.claims):
                    self._take(name, [store])
        else:
            self._take(claim.name, branches)

    def _take(self, name: str, branches: Iterable[Store]) -> None:
        """Refuse a claim, whatever it was promised."""
        for store in branches:
            claim = store.claims.get(name)
            if claim is not None:
                self.promised -= claim.granted
                claim.granted, claim.refused, self.short = 0, True, True
                store.let_go(name)
        self._keeps = any(_granted(store) for store in self._stores)

    def _choose(self, device: torch.device) -> None:
        """Go on to the encoding in which everything fits, or else to the one that takes least."""
        ways = self.ways
        if "host" in ways and device.type != "cpu":
            ways = ways[: ways.index("host")]
        forms = [PLAIN, *(LOSSY[way] for way in ways if way in LOSSY)]
        if self._encoding in forms:
            forms = forms[forms.index(self._encoding) :]
        branches = self._branches()
        sizes = {form.name: wanted(branches, form) for form in forms}
        least = min(forms, key=lambda form: sizes[form.name])
        chosen = next((form for form in forms if sizes[form.name] <= self.limit), least)
        if chosen is self._encoding:
            return
        self._encoding = chosen
        for store in list(self._stores):
            for claim in places(store.claims):
                self._encode_again(store, claim)

    def _encode_again(self, store: Store, claim: Claim) -> None:
        size = claim.size(self._encoding)
        if claim.granted and size > claim.granted:
            return  # Of next to nothing the scales alone take more.
        claim.encoding = self._encoding
        store.encode_again(claim)
        if claim.granted:
            self.promised -= claim.granted - size
            claim.granted = size


def _victim(store: Store, claim: Claim, beside: Sequence[Store]) -> str | None:
    """The place that has to give up what it keeps, for something that goes before it. For what a
    rule compares that is the last of its own, which would be kept in vain without; else the last
    one of another branch, if this one has not come to it yet."""
    own = _granted(store)
    if claim.exact and own:
        return own[-1].name
    names = {claim.name, *(place.name for place in own)}
    ends = [theirs[-1] for other in beside if (theirs := _granted(other))]
    return next((place.name for place in ends if place.name not in names), None)


def _granted(store: Store) -> list[Claim]:
    return [claim for claim in places(store.claims) if claim.granted]
