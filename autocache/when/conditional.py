"""Skip only where the conditional guidance branch is run alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


@dataclass(frozen=True)
class Conditional(When):
    """Another rule, in steps in which nothing unconditional is run; the others are computed.

    What stands in is then that of the conditional branch alone. A generation without guidance
    follows the rule in every step.

    Source: FasterCache as diffusers has it.
    """

    rule: When
    late = True

    def decide(self, moment: Moment) -> Decision:
        decision = self.rule.decide(moment)
        if moment.call.unconditional:
            return replace(decision, compute=True, keep=False)
        if moment.call.conditional_only:
            return decision
        keep = decision.keep or not decision.compute
        return replace(decision, compute=True, keep=keep)

    def overruled(self, moment: Moment) -> None:
        self.rule.overruled(moment)
