"""Ways to spend less compute, each with the one number that says how much less.

A variant is a method with its settings; where a threshold among them is left open, it is searched
for: the smallest at which the compute that is allowed is not exceeded, which for one and the same
method is the setting of best quality.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Install = Callable[[Any, dict[str, Any]], contextlib.AbstractContextManager[Any]]
"""Puts a method with its settings on a pipeline for the length of a `with` block."""

PROBES = 5
"""Most settings of a threshold that are run to meet one limit."""
CLOSE = 0.03
"""Compute below a limit that is close enough: less than a step of the generation more or less."""
FINE = 1.05
"""Ratio of two thresholds between which no other is looked for."""


@dataclass(frozen=True)
class Variant:
    """A method and its settings, `dial` the name of the one that is searched for."""

    install: Install
    fixed: dict[str, Any] = field(default_factory=dict)
    dial: str | None = None
    span: tuple[float, float] = (0.01, 1.0)
    """Lowest and highest value of the dial; compute falls as it rises."""


@dataclass(frozen=True)
class Trial:
    """A setting, its compute as a share of the plain pipeline's, and PSNR in dB of each sample."""

    variant: Variant
    parameters: dict[str, Any]
    compute: float
    psnr: list[float]

    @property
    def mean(self) -> float:
        """Mean PSNR in dB."""
        return sum(self.psnr) / len(self.psnr)


def even_masks(steps: int) -> list[str]:
    """Masks of steps, "1" for computed: so many, the first two, the last one, and even gaps."""
    masks = []
    for computed in (12, 7, 6, 5, 4):
        gaps = computed - 2
        chosen = {0, *(1 + round((steps - 2) * n / gaps) for n in range(gaps + 1))}
        masks.append("".join("1" if step in chosen else "0" for step in range(steps)))
    return masks


@contextlib.contextmanager
def on_a_copy(pipe: Any, denoiser: str) -> Iterator[Any]:
    """The pipeline with a copy of its denoiser, so that nothing of a peer stays behind."""
    original = getattr(pipe, denoiser)
    setattr(pipe, denoiser, copy.deepcopy(original))
    try:
        yield pipe
    finally:
        setattr(pipe, denoiser, original)


Try = Callable[[Variant, dict[str, Any]], Trial]


def trials(variants: Iterable[Variant], limits: Iterable[float], run: Try) -> list[Trial]:
    """Run every variant, those with a dial at what meets each limit of compute as well as it can.

    Raises:
        Exception: whatever a method raises where it does not apply.
    """
    done: list[Trial] = []
    for variant in variants:
        if variant.dial is None:
            done.append(run(variant, variant.fixed))
        else:
            done += _dialled(variant, variant.dial, limits, run)
    return done


def _dialled(variant: Variant, dial: str, limits: Iterable[float], run: Try) -> list[Trial]:
    low, high = variant.span
    known: dict[float, float] = {low: 1.0}
    done: list[Trial] = []

    def at(value: float) -> None:
        done.append(run(variant, {**variant.fixed, dial: value}))
        known[value] = done[-1].compute

    at(high)
    for limit in sorted(limits, reverse=True):
        if known[high] > limit:
            break
        for probe in range(PROBES):
            over = max(value for value in known if known[value] > limit)
            under = min((value for value in known if value > over), default=high)
            if limit - known[under] < CLOSE or under / over < FINE:
                break
            # Where interpolation creeps along one end, halving makes way.
            share = (known[over] - limit) / (known[over] - known[under]) if probe % 2 == 0 else 0.5
            at(float(f"{over * (under / over) ** min(max(share, 0.1), 0.9):.3g}"))
    return done


def best(done: Iterable[Trial], limit: float) -> Trial | None:
    """The trial of highest mean PSNR that keeps to the limit of compute, None where none does."""
    within = [trial for trial in done if trial.compute <= limit]
    return max(within, key=lambda trial: trial.mean, default=None)
