"""Which of the generators and tasks that take turns in a thread a generation belongs to."""

from __future__ import annotations

import threading

from autocache.runtime.stacks import Line, line, related

RETURNS = 2
"""Lines in a row that have to come back, and go on in time, before it is sure that several take
turns: a single one may be a new generator in the place of a dead one."""

REMEMBERED = 16
"""Lines that are remembered; the latest ones."""


class Caller:
    """The line of calls that the generation under way comes from, where it is a loop of the user's.

    In the loop of a pipeline that is known to be under way nothing comes in between.
    """

    def __init__(self) -> None:
        self.runner = 0
        """The thread in which a pipeline's own loop is under way."""
        self.line: Line | None = None
        self._settled = False
        self._left: dict[Line, float] = {}
        self._returns = 0

    def announces(self) -> None:
        """It gave a scheduler its timesteps."""
        self.forget()
        if not self.runner:
            self.line = line()

    def forget(self) -> None:
        """Whoever calls next is the one."""
        self.line, self._settled = None, False
        self._left.clear()
        self._returns = 0

    def is_other(self) -> bool:
        """Whether the present call, which no pipeline makes, comes from elsewhere than before."""
        if self.runner:
            return self.runner != threading.get_ident()
        now = line()
        if now == self.line or self.line is None or (not self._settled and related(now, self.line)):
            self.line, self._settled = now, True
            return False
        return True

    def change(self, before: float | None, now: float, direction: int) -> bool:
        """Another line calls, at a time; True once it is sure that several take turns.

        `before` is the time of the last call of the line until now, `direction` that of time, 0
        where it is not known.
        """
        present = line()
        if self.line is not None and before is not None:
            self._left.pop(self.line, None)
            self._left[self.line] = before
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]
        stood = self._left.pop(present, None)
        went = 0.0 if stood is None else now - stood
        goes_on = went * direction > 0 if direction else went != 0
        self._returns = self._returns + 1 if goes_on else 0
        self.line, self._settled = present, True
        return self._returns >= RETURNS
