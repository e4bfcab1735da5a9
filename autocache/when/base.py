"""The base of a rule that decides between computing and skipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocache.runtime.moment import Decision, Moment

if TYPE_CHECKING:
    from autocache.probe import Probe


class When:
    """An immutable rule. What it must remember goes into the moment's memory and store.

    A rule proposes: the strategy's limits may have a step computed that it would skip. Where
    `moment.forced` says so, what the rule adds up starts again as after any computed step.
    """

    probe: Probe | None = None
    """What it looks at, which is then in `moment.probe`; None for a rule that needs no probe."""

    def decide(self, moment: Moment) -> Decision:
        """Called once per denoiser call, in step order within a guidance branch."""
        raise NotImplementedError

    def learn(self, moment: Moment) -> None:
        """Called when a denoiser call is over in which something was kept or skipped."""
