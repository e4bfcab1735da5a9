"""One recipe at work on one denoiser: a strategy is one or several of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from autocache.runtime.moment import Decision, Moment, State

if TYPE_CHECKING:
    from autocache.runtime.session import Session
    from autocache.strategy.recipe import Recipe


class Part:
    """Takes one decision per denoiser call, which the part's sites then follow."""

    def __init__(self, session: Session, recipe: Recipe, index: int) -> None:
        self.session = session
        self.recipe = recipe
        self.index = index

    @property
    def moment(self) -> Moment | None:
        """The call under way; None also when this part neither skips nor keeps anything in it."""
        return self.session.here.acting[self.index]

    @property
    def shared(self) -> State:
        """What it remembers for all guidance branches together, in the generation under way."""
        shared = self.session.track.shared
        assert shared is not None
        return shared.states[self.index]

    def decide(self, moment: Moment) -> Decision:
        """Compute or skip, decided once per denoiser call."""
        if moment.decision is None:
            decision = self._sound(moment, self._decide(moment))
            decision = moment.decision = self._agreed(moment, decision)
            self.recipe.limits.count(moment, decision.compute)
            if decision.distance is not None:
                moment.record.distance = decision.distance
                moment.record.threshold = decision.threshold
            if decision.compute and not decision.keep:
                self.session.here.acting[self.index] = None
        return moment.decision

    def _sound(self, moment: Moment, decision: Decision) -> Decision:
        """What is done where a rule measured what is not finite, whatever it made of that."""
        if decision.distance is None or math.isfinite(decision.distance):
            return decision
        if not decision.compute:
            self.recipe.when.overruled(moment)
        moment.distrust()
        return Decision(compute=True)

    def _agreed(self, moment: Moment, decision: Decision) -> Decision:
        """What all ranks do, where some must not skip what the others compute."""
        ranks = moment.call.ranks
        if self.index not in ranks.coupled:
            return decision
        kept = sorted((name, moment.store.holds(name)) for name in moment.kept)
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
