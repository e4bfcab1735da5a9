"""The base of a rule that decides between computing and skipping."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from autocache.runtime.moment import Decision, Moment

if TYPE_CHECKING:
    from torch import nn

    from autocache.probe import Probe


class When:
    """An immutable rule. What it must remember goes into the moment's memory and store.

    A rule proposes: the strategy's limits may have a step computed that it would skip. Where
    `moment.forced` says so, what the rule adds up starts again as after any computed step.
    """

    probe: Probe | None = None
    """What it looks at, which is then in `moment.probe`; None for a rule that needs no probe."""
    history: int = 1
    """Computed steps before one that may skip that it learns from, or has remembered."""

    late: bool = False
    """Decided when the first place asks, and not as the call begins: it looks at what the parts
    before it make of the call."""

    def counted_in(self, steps: int) -> When:
        """The same rule, its numbers of steps being those of a generation of `steps` steps: they
        mean the same share of a generation of another length. So are those of a rule inside it."""
        if not is_dataclass(self):
            return self
        rules = {key: rule for key, rule in vars(self).items() if isinstance(rule, When)}
        return replace(self, **{key: rule.counted_in(steps) for key, rule in rules.items()})

    def decide(self, moment: Moment) -> Decision:
        """Called once per denoiser call, in step order within a guidance branch.

        What it measured goes with the decision, also where that is not finite.
        """
        raise NotImplementedError

    def decide_at(
        self, moment: Moment, site: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> Decision | None:
        """A decision of one module's own, called so in a step that may skip; None follows the
        step's. One that neither skips nor keeps lets go of what is kept for the module."""
        return None

    def overruled(self, moment: Moment) -> None:
        """Called after it decided to skip a step that is computed all the same, because another
        process has to or what it measured is not finite: what it adds up starts again."""

    def learn(self, moment: Moment) -> None:
        """Called when a denoiser call is over in which something was kept or skipped."""
