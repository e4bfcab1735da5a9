"""Which generation, step and guidance branch the present denoiser call belongs to."""

from __future__ import annotations

from collections.abc import Callable

MAX_BRANCHES = 8
"""Guidance branches in one step. More calls than this at one time are a new generation: a loop that
always runs at one timestep would otherwise open a new branch, with a state of its own, for ever."""


class Clock:
    """Turns the scheduler's signals, or the timestep's value where there are none, into steps.

    A scheduler's `set_timesteps` starts a generation and its `step` ends a step, at no host sync. A
    call that no scheduler announced is placed by its time: the time of the call before is the next
    guidance branch, a time further along is the next step, a jump back is a new generation. So is
    one whose scheduler announced the generation and takes no steps, since copies of it do.
    """

    def __init__(self, direction: int = 0) -> None:
        """`direction` is the way that time is expected to go in a generation, 1 or -1; 0 where
        nothing is known of it."""
        self.generation = -1
        self.step = 0
        self.total: int | None = None
        self.context: str | None = None
        self._announced = False
        self._driven = False
        self._index: int | None = None
        self._began: Callable[[], float] | None = None
        self._time: float | None = None
        self._direction = direction
        self._sure = self._against = False
        self._calls: dict[str, int] = {}
        """Of the step under way, by the name that the caller gives the guidance branch."""

    def announce(self, total: int | None) -> None:
        """A scheduler was given its timesteps: the next call starts a generation.

        Steps count from here and not from that call, which comes late for an expert that only runs
        the second half of the steps.
        """
        self._announced = self._driven = True
        self._index = self._began = self._time = None
        self.step, self.total = 0, total
        self._calls.clear()

    def advance(self, start: int | None = None, end: int | None = None) -> bool:
        """A scheduler took its step, from one index to another of its own, where it counts.

        True when that was the generation's last. One that starts before the step before it ended
        is the same step once more, for another intermediate result: it does not count.
        """
        if not self._driven:
            return False
        self._began = None
        repeated = start is not None and self._index is not None and start < self._index
        self._index = end
        if repeated:
            return False
        self.step += 1
        self._calls.clear()
        return self.step == self.total

    @property
    def under_way(self) -> bool:
        """Whether a scheduler announced a generation that it has not taken all steps of."""
        return self._driven and (self.total is None or self.step < self.total)

    @property
    def awaits_first(self) -> bool:
        """Whether it was announced, and nothing of it has come yet."""
        return self._announced

    @property
    def last(self) -> tuple[float | None, int]:
        """The time of the last call that was placed by it, and 1 or -1 as time goes; 0 where that
        is not known."""
        return self._time, self._direction

    def close(self) -> None:
        """The generation is over, however far it came."""
        self._announced = False
        self.restart()

    def restart(self) -> None:
        """Whatever comes next belongs to a new generation."""
        self._began = self._time = None
        self._driven = self._announced

    @property
    def called(self) -> bool:
        """Whether the denoiser was called in this step."""
        return bool(self._calls)

    def enter(self, time: Callable[[], float]) -> tuple[bool, str]:
        """Place one denoiser call: (is it the first of a new generation, its guidance branch)."""
        new = self._is_new(time)
        self.generation += new
        name = self.context or ""
        nth = self._calls.get(name, 0)
        self._calls[name] = nth + 1
        if self.context is None:
            return new, str(nth)
        return new, name if nth == 0 else f"{name}#{nth}"

    def _is_new(self, time: Callable[[], float]) -> bool:
        if self._announced:
            self._announced = False
            self._began = time if self.step == 0 else None
            return True
        if self.under_way and not self._is_left_behind(time):
            return False
        self._driven = False
        new = self._moves_to(time())
        if new:
            self.step, self.total = 0, None
            self._calls.clear()
        return new

    def _is_left_behind(self, time: Callable[[], float]) -> bool:
        """Whether time went on though the scheduler, which has taken no step yet, took none.

        Looked at where a branch comes a second time: to read the time is to wait for the device.
        """
        if self._began is None or not (self.context in self._calls or self._is_full):
            return False
        began = self._began()
        if time() == began:
            return False
        self._began, self._time, self.total = None, began, None
        return True

    @property
    def _is_full(self) -> bool:
        return sum(self._calls.values()) >= MAX_BRANCHES

    def _moves_to(self, now: float) -> bool:
        """Go on to a time; True when that starts a generation."""
        before, self._time = self._time, now
        if before is None:
            return True
        if now == before:
            return self._is_full
        if self._turns_back(1 if now > before else -1):
            return True
        self.step += 1
        self._calls.clear()
        return False

    def _turns_back(self, direction: int) -> bool:
        """Whether a move of time is a jump back; two such and none the other way are the way."""
        if self._direction == 0:
            self._direction = direction
        elif direction == self._direction:
            self._sure = True
        elif self._sure or not self._against:
            self._against = True
            return True
        else:
            self._direction, self._sure = direction, True
        return False
