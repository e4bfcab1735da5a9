"""AdaCache's decision against a straight-line transcription of its published pseudo-code."""

from __future__ import annotations

import math
import random

import pytest
import torch

from autocache.errors import ParameterError
from autocache.probe import AttentionResidual
from autocache.runtime.limits import Limits
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Codebook, Motion
from autocache.when.codebook import FAST, PUBLISHED, Entries

PROBE = AttentionResidual()
FRAMES = 4
CODEBOOKS = {
    "100": {0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4, 1.00: 3},
    "fast": {0.08: 6, 0.16: 5, 0.24: 4, 0.32: 3, 0.40: 2, 1.00: 1},
    "slow": {0.08: 3, 0.16: 2, 0.24: 1, 0.32: 1, 0.40: 1, 1.00: 1},
}
"""As published: five comparisons, and the sixth entry for all else."""


def walk(seed: int, steps: int) -> list[torch.Tensor]:
    """Attention residuals of 4 frames of 3 tokens; they change by less and by more in turns."""
    generator = torch.Generator().manual_seed(seed)
    strides = random.Random(seed)
    path = [torch.randn(2, 3 * FRAMES, 5, generator=generator)]
    for _ in range(steps - 1):
        stride = torch.randn(path[0].shape, generator=generator) * strides.uniform(0.0, 0.25)
        path.append(path[-1] + stride)
    return path


def looked_up(codebook: dict[float, int], change: float) -> int:
    thresholds, rates = list(codebook), list(codebook.values())
    for threshold, rate in zip(thresholds[:5], rates[:5], strict=True):
        if change < threshold:
            return rate
    return rates[-1]


def published(path, codebook, last_steps=2, moreg_steps=None, strides=(1,)) -> list[bool]:
    """True where the step is computed. Steps count from 1, `moreg_steps` too."""
    total = len(path)
    rate = next_rate = 1
    last, cached, motion_before, computed = 0, None, 1.0, []
    for n in range(1, total + 1):
        full = n == 1 or n > total - last_steps or n == last + rate
        if full:
            r = path[n - 1].double()
            if cached is not None:
                c = (cached - r).abs().sum() / cached.abs().sum() / rate
                if moreg_steps is not None:
                    motion = 1.0
                    if moreg_steps[0] <= n <= moreg_steps[1]:
                        motion = 0.0
                        for stride in strides:
                            late, early = r[:, stride * 3 :], r[:, : -stride * 3]
                            apart = (late - early).abs().sum()
                            motion += apart / (late.abs().sum() + early.abs().sum())
                        motion = float((motion / len(strides) / 0.385) ** 8)
                    gradient = 10 * (motion - motion_before) / rate
                    motion_before = motion
                    c *= motion + abs(gradient)
                next_rate = looked_up(codebook, float(c))
            cached, last = r, n
        rate = next_rate
        computed.append(full)
    return computed


def decide(when: Codebook, path: list, limits: Limits | None = None) -> list[bool]:
    """True where the step is computed; the probe is there in computed steps only, and late."""
    limits = limits or Limits(warmup=1, last=2)
    state = State(Store(Ledger()))
    computed = []
    for step, residual in enumerate(path):
        call = Call(step, len(path), "0", StepRecord("toy", 0, "0", step, 0, 0))
        moment = Moment(call, state, state)
        moment.forced = not state.kept or limits.forces(moment) or limits.exhausted(moment)
        state.kept["something"] = True
        computed.append(when.decide(moment).compute)
        limits.count(moment, computed[-1])
        moment.probe = residual if computed[-1] else None
        when.learn(moment)
    return computed


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "steps"), [("100", 100), ("100", 50), ("fast", 30), ("slow", 30)])
@pytest.mark.parametrize("last_steps", [2, 0])
def test_follows_the_published_rule(seed, name, steps, last_steps):
    """Same steps computed, with each published codebook; LightX2V forces no last steps."""
    path = walk(seed, steps)
    expected = published(path, CODEBOOKS[name], last_steps)
    when = Codebook(PROBE, PUBLISHED[name].entries)
    assert decide(when, path, Limits(warmup=1, last=last_steps)) == expected
    assert expected[:2] == [True, True]
    assert not all(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strides", [(1,), (1, 2)])
@pytest.mark.parametrize(
    ("name", "steps", "window"), [("100", 100, (10, 90)), ("fast", 30, (4, 26))]
)
def test_motion_follows_the_published_rule(seed, name, steps, window, strides):
    """Motion counts in the published steps, which change what is computed."""
    path = [
        0.7 * residual + 0.3 * residual[:, :3].repeat(1, FRAMES, 1)
        for residual in walk(seed, steps)
    ]
    book = PUBLISHED[name]
    motion = Motion(FRAMES, strides=strides, steps=book.moves, of=book.steps)
    expected = published(path, CODEBOOKS[name], moreg_steps=window, strides=strides)
    assert decide(Codebook(PROBE, book.entries, motion), path) == expected
    assert expected != decide(Codebook(PROBE, book.entries), path)


def test_the_steps_at_which_motion_counts_scale():
    """Those published for 30 steps are the same shares of 60."""
    state = State(Store(Ledger()))
    motion = Motion(steps=(3, 25), of=30)
    looks = []
    for step in range(60):
        call = Call(step, 60, "0", StepRecord("toy", 0, "0", step, 0, 0))
        looks.append(motion._looks(Moment(call, state, state)))
    assert [looks.index(True), len(looks) - looks[::-1].index(True) - 1] == [6, 50]


def weight(motion: Motion, probe: torch.Tensor, latent: torch.Tensor | None = None) -> float:
    call = Call(5, 10, "0", StepRecord("toy", 0, "0", 5, 0, 0), latent=latent)
    state = State(Store(Ledger()))
    return motion.weight(probe, Moment(call, state, state), 1)


def test_motion_without_two_frames_leaves_the_change_as_it_is():
    """One frame, an unknown number, a stride past the end, and frames of zeros: no division by
    nothing, which makes upstream choose the last rate."""
    probe = torch.randn(1, 12, 4)
    image, video = torch.zeros(1, 4, 1, 8, 8), torch.zeros(1, 4, 4, 8, 8)
    assert weight(Motion(axis=2), probe, image) == 1.0
    assert weight(Motion(axis=2), probe, torch.zeros(1, 4, 8)) == 1.0
    assert weight(Motion(axis=2), probe, None) == 1.0
    assert weight(Motion(4, strides=(4, 9)), probe) == 1.0
    assert weight(Motion(4), torch.zeros(1, 12, 4)) == 1.0
    assert weight(Motion(axis=2, patch=3), probe, video) == 1.0
    assert weight(Motion(axis=2), probe, video) != 1.0
    assert weight(Motion(axis=2), probe, video) == weight(Motion(4), probe)
    with pytest.raises(ParameterError, match="frames=5"):
        weight(Motion(5), probe)


def test_a_change_that_is_not_finite_is_followed_by_a_computed_step():
    """NaN and infinity choose no rate, whatever the codebook has for large changes."""
    when = Codebook(PROBE, PUBLISHED["100"].entries)
    assert [when.rate(value) for value in (math.nan, math.inf, 5.0, 0.0)] == [1, 1, 3, 12]
    path = [torch.ones(1, 4, 2) * value for value in (1.0, math.nan, 1.0, 1.0, 1.0, 1.0, 1.0)]
    # NaN at the second step and, against it, at the third; from the fourth on nothing changes.
    assert decide(when, path, Limits()) == [True, True, True, True, False, False, False]


def test_above_all_thresholds_the_next_step_is_computed():
    """A codebook without an entry for all else."""
    entries: Entries = ((0.1, 4), (0.2, 2))
    assert [Codebook(PROBE, entries).rate(value) for value in (0.05, 0.1, 0.2)] == [4, 2, 1]


def test_the_gap_is_that_of_the_steps_that_were_computed():
    """A limit that cuts a rate short: the change is taken per step that really passed."""
    path = [torch.full((1, 4, 2), 1.0 + 0.1 * step) for step in range(9)]
    # From 1.1 to 1.3 in two steps is 0.09 per step; for four steps it would count as 0.045.
    limits = Limits(max_consecutive_skips=1)
    when = Codebook(PROBE, ((0.05, 8), (0.095, 1), (math.inf, 4)))
    assert decide(when, path, limits) == [True, True, False, *[True] * 6]


def test_rates_of_one_never_skip_and_measure_nothing():
    """Nothing is probed and nothing kept where every rate is one."""
    when = Codebook(PROBE, ((math.inf, 1),))
    assert when.probe is None
    assert all(decide(when, walk(0, 10)))
    assert Codebook(PROBE, FAST).probe == PROBE
