"""Every error autocache raises, and the wording they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutocacheError(Exception):
    """Base of every error raised by autocache."""


class UnknownStrategyError(AutocacheError):
    """No strategy has the given name."""


class UnknownModelError(AutocacheError):
    """No model spec describes the target, or the target is no model at all."""


class ParameterError(AutocacheError):
    """A strategy parameter is unknown, of the wrong type, or out of range."""


class DoesNotApplyError(ParameterError):
    """The strategy needs something that this model does not have."""


class SpecError(AutocacheError):
    """A model spec cannot be read, is malformed, or does not fit the live model."""


class ProfileError(AutocacheError):
    """A profile cannot be read, is malformed, or holds what its strategy does not take."""


class ProfileMismatchError(ProfileError, DoesNotApplyError):
    """A profile was made for something else, and cannot be adapted to what it is used on."""


class PatchError(AutocacheError):
    """The model cannot be instrumented as it stands."""


class ConcurrencyError(PatchError):
    """Two generations at once would share what can only serve one at a time."""


class DeviceError(AutocacheError):
    """A device that was asked for is unknown, absent, or lacks what its vendor provides."""


class RankError(AutocacheError):
    """Another process that works on the same generation failed, is late, or is elsewhere in it."""


class CalibrationError(AutocacheError):
    """A calibration run does not support a table: what is measured does not tell the error."""


class MemoryLimitError(AutocacheError):
    """What the strategy has to keep does not fit the given memory limit."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """A clause naming the nearest valid word, or where none is near those that it is a part of, or
    all of them.

    >>> nearest("teacach", ["teacache", "attention"])
    "; did you mean 'teacache'?"
    """
    names = list(valid)
    within = [name for name in names if len(word) > 2 and word.lower() in name.lower()]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; expected one of: {', '.join(sorted(within or names))}" if names else ""
