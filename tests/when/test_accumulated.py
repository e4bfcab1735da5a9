"""TeaCache's decision against a transcription of its published pseudo-code."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from autocache.probe import Named
from autocache.runtime.limits import Limits
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Accumulated

PROBE = Named("modulated_input")
FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


def probes(seed: int, steps: int) -> list[torch.Tensor]:
    """A random walk whose strides vary, so that both decisions occur."""
    generator = torch.Generator().manual_seed(seed)
    strides = random.Random(seed)
    walk = [torch.randn(2, 5, 3, generator=generator)]
    for _ in range(steps - 1):
        stride = torch.randn(2, 5, 3, generator=generator) * strides.uniform(0.02, 0.3)
        walk.append(walk[-1] + stride)
    return walk


def published(walk, threshold, coefficients, clip, warmup, cutoff, most=None) -> list[bool]:
    """True where the step is computed, by the rule as the paper's code states it."""
    previous, total, skips, computed = None, 0.0, 0, []
    for step, probe in enumerate(walk):
        now = probe.double().numpy()
        if previous is None or step < warmup or step >= cutoff:
            run, total = True, 0.0
        else:
            change = np.abs(now - previous).mean() / np.abs(previous).mean()
            value = float(np.poly1d(coefficients)(change))
            value = {"abs": abs(value), "zero": max(value, 0.0), "none": value}[clip]
            total += value
            run = total >= threshold or skips == most
            total = 0.0 if run else total
        skips = 0 if run else skips + 1
        previous = now
        computed.append(run)
    return computed


def decide(
    when: Accumulated, walk: list, total: int | None, limits: Limits | None = None
) -> list[bool]:
    """True where the step is computed, within the limits."""
    limits = limits or Limits(warmup=1, last=1)
    state = State(Store(Ledger()), {"something": True})
    computed = []
    for step, probe in enumerate(walk):
        call = Call(step, total, "0", StepRecord("toy", 0, "0", step, 0, 0))
        moment = Moment(call, state, state, probe=probe)
        moment.forced = limits.forces(moment) or limits.exhausted(moment)
        computed.append(when.decide(moment).compute)
        limits.count(moment, computed[-1])
    return computed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clip", ["zero", "abs", "none"])
@pytest.mark.parametrize(("coefficients", "threshold"), [(FLUX, 0.3), ((1.0, 0.0), 0.25)])
def test_follows_the_published_rule(seed, clip, coefficients, threshold):
    """Same steps computed as the published rule, for every treatment of negative values."""
    walk = probes(seed, 30)
    when = Accumulated(PROBE, threshold, coefficients, clip)
    expected = published(walk, threshold, coefficients, clip, 2, 29)
    assert decide(when, walk, 30, Limits(warmup=2, last=1)) == expected
    assert len(set(expected)) == 2


def test_last_step_is_computed_only_when_the_end_is_known_and_wanted():
    """The last step is computed where it is known; without an announcement nothing is forced."""
    walk = [torch.ones(3)] * 6
    forced = Accumulated(PROBE, 0.1)
    assert decide(forced, walk, 6) == [True, False, False, False, False, True]
    assert decide(forced, walk, None) == [True, False, False, False, False, False]
    assert decide(forced, walk, 6, Limits(warmup=1))[-1] is False


def test_consecutive_skips_are_capped():
    """`max_consecutive_skips` computes after that many skips in a row."""
    walk = [torch.ones(3)] * 9
    limits = Limits(max_consecutive_skips=2)
    assert decide(Accumulated(PROBE, 0.1), walk, None, limits) == [True, False, False] * 3


def test_threshold_zero_never_skips_whatever_the_polynomial():
    """A threshold of 0 computes every step, even where a signed polynomial goes negative."""
    when = Accumulated(PROBE, 0.0, (-5.0, -1.0), clip="none")
    assert when.probe is None
    assert all(decide(when, [None] * 20, 20))


def test_a_probe_that_is_not_finite_is_computed():
    """NaN or infinity in the probe never counts as small."""
    walk = [torch.ones(3), torch.ones(3), torch.full((3,), torch.nan), torch.ones(3)]
    assert decide(Accumulated(PROBE, 0.5), walk, None) == [True, False, True, True]


def test_relative_threshold_skips_every_second_step_of_a_steady_walk():
    """The uncalibrated default halves the work on a trajectory of constant change."""
    walk = [torch.full((4,), 1.1**step) for step in range(12)]
    when = Accumulated(PROBE, 1.9, relative=True)
    assert decide(when, walk, 12) == [True, False] * 5 + [True, True]
