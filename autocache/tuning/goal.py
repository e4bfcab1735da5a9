"""What a tuning is after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocache.errors import ParameterError

if TYPE_CHECKING:
    from autocache.tuning.candidate import Candidate


@dataclass(frozen=True)
class Goal:
    """Just one of: a speed-up of the denoisers' compute, a mean PSNR in dB, seconds for an input.

    Raises:
        ParameterError: none or several are given, or one is out of range.
    """

    speedup: float | None = None
    min_psnr: float | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ParameterError(f"give one of speedup, min_psnr and time; given: {named}")
        if self.speedup is not None and not 1 < self.speedup < float("inf"):
            raise ParameterError(f"speedup={self.speedup!r}: expected a number above 1")
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise ParameterError(f"{name}={value!r}: expected a number above 0")

    def missed(self, found: Sequence[Candidate]) -> str:
        """What to say when nothing that was found reaches it."""
        if self.min_psnr is None:
            least = min((one.compute for one in found), default=1.0)
            return (
                f"nothing that was tried leaves as little compute; the least was {least:.1%}. Name "
                "other strategies, or allow more trials by budget"
            )
        most = max((one.psnr for one in found), default=0.0)
        return (
            f"min_psnr={self.min_psnr}: the best that was found has {most:.1f} dB; ask for less, "
            "or allow more trials by budget"
        )

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"{self.speedup:g} times less compute"
        if self.min_psnr is not None:
            return f"at least {self.min_psnr:g} dB"
        return f"{self.time:g} seconds for each input"
