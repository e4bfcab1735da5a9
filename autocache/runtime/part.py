"""One recipe at work on one denoiser: a strategy is one or several of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from autocache.runtime.moment import Decision, Moment, State
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.runtime.session import Session
    from autocache.strategy.recipe import Recipe


class Part:
    """Takes one decision per denoiser call, which the part's sites then follow."""

    def __init__(self, session: Session, recipe: Recipe, index: int) -> None:
        self.session = session
        self.recipe = recipe
        self.index = index
        self.asks = type(recipe.when).decide_at is not When.decide_at
        """Whether the rule decides for each module, too."""

    @property
    def moment(self) -> Moment | None:
        """The call under way; None also when this part neither skips nor keeps anything in it."""
        acting = self.session.here.acting
        return acting[self.index] if acting else None

    @property
    def shared(self) -> State:
        """What it remembers for all guidance branches together, in the generation under way."""
        shared = self.session.track.shared
        assert shared is not None
        return shared.states[self.index]

    def decide(self, moment: Moment) -> Decision:
        """Compute or skip, decided once per denoiser call."""
        if moment.decision is not None:
            return moment.decision
        decision, recipe = self._decide(moment), self.recipe
        if decision.distance is not None:
            decision = self._sound(moment, decision, decision.distance)
        if self.index in moment.call.ranks.coupled:
            decision = self._agreed(moment, decision)
        moment.decision = decision
        recipe.limits.count(moment, decision.compute)
        if not decision.compute:
            self.session.here.skipping = True
        if decision.distance is not None:
            moment.record.distance = decision.distance
            moment.record.threshold = decision.threshold
        if decision.compute and not decision.keep:
            self.session.here.rest(self.index)
        return decision

    def _sound(self, moment: Moment, decision: Decision, distance: float) -> Decision:
        """What is done where a rule measured what is not finite, whatever it made of that."""
        if math.isfinite(distance):
            return decision
        if not decision.compute:
            self.recipe.when.overruled(moment)
        moment.distrust()
        return Decision(compute=True)

    def _agreed(self, moment: Moment, decision: Decision) -> Decision:
        """What all ranks do, where some must not skip what the others compute."""
        ranks = moment.call.ranks
        # Places that keep something together do so under a name of its own.
        names = [(site, getattr(kept, "name", site)) for site, kept in moment.kept.items()]
        kept = sorted((site, moment.store.holds(name)) for site, name in names)
        if not ranks.any_computes(decision.compute, kept) or decision.compute:
            return decision
        self.recipe.when.overruled(moment)
        return replace(decision, compute=True, keep=self._wanted(moment))

    def _decide(self, moment: Moment) -> Decision:
        limits = self.recipe.limits
        if not limits.shared:
            return self._own(moment)
        memory = moment.shared.memory
        if memory.get("decided at") != moment.step:
            memory["decision"] = self._own(moment)
            memory["decided at"] = moment.step
        decision: Decision = memory["decision"]
        if not decision.compute and not moment.kept:
            return replace(decision, compute=True, keep=True)
        return decision

    def _own(self, moment: Moment) -> Decision:
        limits, when = self.recipe.limits, self.recipe.when
        # In places of exact reuse each sees for itself whether anything may stand in.
        unready = not moment.kept and not self.recipe.where.exact
        why = "nothing kept" if unready else limits.why(moment)
        moment.forced = why is not None
        moment.record.forced = why
        decision = when.decide(moment)
        if moment.forced and not decision.compute:
            # Nothing to stand in yet (the first step, a reset, an expert that takes over), or a
            # step that must be computed.
            decision = replace(decision, compute=True, keep=True)
        if decision.compute and decision.keep and not self._wanted(moment):
            return replace(decision, keep=False)
        return decision

    def _wanted(self, moment: Moment) -> bool:
        """Whether a later step may look back on this one."""
        if moment.call.is_last:
            return False
        ahead = range(1, max(self.recipe.how.keep, self.recipe.when.history) + 1)
        return not all(self.recipe.limits.forces(moment, n) for n in ahead)
