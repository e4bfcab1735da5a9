"""Where computed steps are placed."""

from __future__ import annotations

import itertools

import diffusers
import pytest

from autocache.runtime.progress import progress
from autocache.when.placed import placed


@pytest.mark.parametrize("total", [1, 2, 3, 8, 28, 50])
@pytest.mark.parametrize("speedup", [1.0, 1.5, 2.0, 3.0, 4.0, 100.0])
def test_as_many_steps_as_the_speed_up_wants(total: int, speedup: float) -> None:
    """The first among them, also where several fall together."""
    steps = placed(total, speedup, 1.5, 0.5)
    assert len(steps) == max(1, round(total / speedup))
    assert 0 in steps
    assert steps <= set(range(total))


def test_evenly_and_at_the_beginning() -> None:
    """A power of 1 is every second or fourth step; a higher one takes from the end."""
    assert placed(12, 2, 1.0, 1.0) == {0, 2, 4, 6, 8, 10}
    assert placed(12, 4, 1.0, 1.0) == {0, 4, 8}
    assert placed(12, 4, 2.0, 1.0) == {0, 1, 5}


def test_few_are_left_after_the_last() -> None:
    """Half a gap: the last is nearer to the end than to the one before, at any speed."""
    for total, speedup in itertools.product((20, 28, 50), (2, 3, 4)):
        *_, before, last = sorted(placed(total, speedup, 1.5, 0.5))
        assert total - last <= (last - before + 1) / 2 + 1


def test_the_way_of_the_scheduler_counts() -> None:
    """Where the first half of the steps makes a tenth of the way, fewer of them are computed."""
    slow = tuple([n * 0.1 / 6 for n in range(6)] + [0.1 + n * 0.9 / 6 for n in range(6)])
    assert placed(12, 3, 1.0, 1.0, slow) == {0, 7, 8, 10}


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        diffusers.DDIMScheduler(),
        diffusers.EulerDiscreteScheduler(use_karras_sigmas=True),
        diffusers.DPMSolverMultistepScheduler(),
        diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        diffusers.EDMEulerScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_tell_how_far_they_are(scheduler) -> None:
    """From 0, rising with each step, and not yet at the end in the last."""
    scheduler.set_timesteps(10)
    way = progress(scheduler)
    assert way is not None
    assert len(way) == 10
    assert way[0] == 0
    assert all(early < late for early, late in itertools.pairwise(way))
    assert way[-1] < 1


def test_a_shift_of_time_makes_the_first_steps_small() -> None:
    """They are where the noise is; unshifted, the middle of the steps is the middle of the way."""
    ways = []
    for shift in (1.0, 5.0):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(11)
        found = progress(scheduler)
        assert found is not None
        ways.append(found[5])
    assert ways[0] == pytest.approx(0.5, abs=0.03)
    assert ways[1] < 0.3


def test_a_scheduler_without_noise_levels_tells_nothing() -> None:
    """One of an own loop, for instance."""

    class Own:
        timesteps = (3.0, 2.0, 1.0)

    assert progress(Own()) is None
