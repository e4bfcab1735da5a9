"""The first-blocks rule against a transcription of its published pseudo-code."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocache.probe import FirstBlocks
from autocache.runtime.limits import Limits
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Residual

PROBE = FirstBlocks(1)


def walk(seed: int, steps: int) -> list[torch.Tensor]:
    """Probes whose strides vary, so that both decisions occur."""
    generator = torch.Generator().manual_seed(seed)
    strides = random.Random(seed)
    probes = [torch.randn(2, 5, 4, generator=generator)]
    for _ in range(steps - 1):
        stride = torch.randn(2, 5, 4, generator=generator) * strides.uniform(0.02, 0.3)
        probes.append(probes[-1] + stride)
    return probes


def published(probes, threshold, reference, stride, limit, resets, forced) -> list[bool]:
    """True where the step is computed, as ParaAttention, LightX2V and cache-dit do."""
    ref, total, computed = None, 0.0, []
    for step, probe in enumerate(probes):
        now = probe.double().numpy()[..., ::stride]
        run = ref is None or step in forced or (limit is not None and total >= limit)
        if not run:
            change = np.abs(now - ref).mean() / np.abs(ref).mean()
            total += change
            run = change >= threshold
        if run and resets:
            total = 0.0
        if run or reference == "previous_step":
            ref = now
        computed.append(run)
    return computed


def decide(when: Residual, probes: list, limits: Limits | None = None) -> list[bool]:
    """True where the step is computed, within the limits."""
    limits, state = limits or Limits(), State(Store(Ledger()))
    computed = []
    for step, probe in enumerate(probes):
        call = Call(step, None, "0", StepRecord("toy", 0, "0", step, 0, 0))
        moment = Moment(call, state, state, probe=probe)
        moment.forced = not step or limits.forces(moment) or limits.exhausted(moment)
        computed.append(moment.forced or when.decide(moment).compute)
        if moment.forced:
            when.decide(moment)
        limits.count(moment, computed[-1])
    return computed


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 50),
    threshold=st.floats(0.02, 0.9),
    reference=st.sampled_from(["last_computed", "previous_step"]),
    stride=st.sampled_from([1, 2]),
    limit=st.none() | st.floats(0.05, 2.0),
    resets=st.booleans(),
    warmup=st.integers(0, 6),
)
def test_follows_the_published_rule(seed, threshold, reference, stride, limit, resets, warmup):
    """Same steps computed as the published rule, for every option."""
    probes = walk(seed, 24)
    when = Residual(PROBE, threshold, reference, stride, limit, resets)
    forced = set(range(warmup))
    expected = published(probes, threshold, reference, stride, limit, resets, forced)
    assert decide(when, probes, Limits(warmup=warmup)) == expected


def test_the_reference_is_the_last_computed_step_by_default():
    """A slow drift is noticed against the last computed step, and never against the one before."""
    drift = [torch.full((4,), 1.1**step) for step in range(9)]
    assert decide(Residual(PROBE, 0.25), drift) == [True, False, False] * 3
    before = Residual(PROBE, 0.25, "previous_step")
    assert decide(before, drift) == [True] + [False] * 8


def test_a_change_as_large_as_the_threshold_is_computed():
    """The comparison is strict, as ParaAttention's and cache-dit's."""
    probes = [torch.tensor([4.0]), torch.tensor([5.0]), torch.tensor([6.0])]
    assert decide(Residual(PROBE, 0.25), probes) == [True, True, False]


def test_the_accumulated_change_starts_again_with_every_computed_step():
    """The limit ends a run of skips; as upstream it ends skipping for the whole generation."""
    probes = [torch.full((4,), 1.0 + 0.1 * (step % 2)) for step in range(12)]
    limited = Residual(PROBE, 0.2, limit=0.15)
    assert decide(limited, probes).count(False) > 6
    upstream = Residual(PROBE, 0.2, limit=0.15, limit_resets=False)
    assert decide(upstream, probes) == [True, *[False] * 3, *[True] * 8]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_probe_that_is_not_finite_is_computed(bad):
    """NaN or infinity never counts as small, neither as the probe nor as the reference."""
    probes = [torch.ones(3), torch.ones(3), torch.full((3,), bad), torch.ones(3), torch.ones(3)]
    assert decide(Residual(PROBE, 0.5), probes) == [True, False, True, True, False]


def test_an_unknown_probe_is_computed():
    """Where the probe could not be measured the step is computed, and the reference stays."""
    probes = [torch.ones(3), None, torch.ones(3)]
    assert decide(Residual(PROBE, 0.5), probes) == [True, True, False]


def test_thresholds_that_alone_decide_measure_nothing():
    """0 never skips; `certain` and more always does; both need no probe."""
    never, always = Residual(PROBE, 0.0), Residual(PROBE, 1.0, certain=1.0)
    assert never.probe is always.probe is None
    assert decide(never, [None] * 5) == [True] * 5
    assert decide(always, [None] * 5) == [True] + [False] * 4
    assert Residual(PROBE, 1.0).probe is PROBE
