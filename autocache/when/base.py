"""The protocol of a rule that decides between computing and skipping."""

from __future__ import annotations

from typing import Protocol

from autocache.runtime.moment import Decision, Moment


class When(Protocol):
    """An immutable rule. What it must remember goes into `moment.memory` and `moment.store`."""

    @property
    def probe(self) -> str | None:
        """The spec's probe it looks at, which is then in `moment.probe`; None for a schedule."""
        ...

    def decide(self, moment: Moment) -> Decision:
        """Called once per denoiser call, in step order within a guidance branch."""
        ...
