"""The placement of least cost, on recordings made up for it."""

from __future__ import annotations

import itertools

import pytest
import torch

from autocache.tuning.mixture import mixture
from autocache.tuning.placement import Placement
from autocache.tuning.trajectory import Step, Trajectory

TOTAL = 8


def trajectory(outputs: list[torch.Tensor], gains: list[float]) -> Trajectory:
    """An Euler run: each step adds so much of its output."""
    latent = torch.ones_like(outputs[0])
    made = Trajectory()
    for output, gain in zip(outputs, gains, strict=True):
        made.steps.append(Step(latent, output, {"0": output}))
        latent = latent + gain * output
    made.end = latent
    return made


def random_runs(seed: int) -> list[Trajectory]:
    """Outputs that wander, more so in the middle, and unequal steps."""
    generator = torch.Generator().manual_seed(seed)
    gains = (-torch.rand(TOTAL, generator=generator) - 0.1).tolist()
    runs = []
    for _ in range(2):
        moves = torch.randn(TOTAL, 1, 40, generator=generator)
        moves *= torch.linspace(-1, 1, TOTAL).square().sub(1.2).abs()[:, None, None]
        runs.append(trajectory(list(moves.cumsum(0)), gains))
    return runs


def placement(runs: list[Trajectory], order: int = 3) -> Placement:
    return Placement(runs, mixture(runs), order)


def whole_cost(made: Placement, steps: tuple[int, ...]) -> float:
    ends = [*steps[1:], made.total]
    return sum(
        made.cost(steps[max(0, nth + 1 - made.order) : nth + 1], end)
        for nth, end in enumerate(ends)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_none_of_all_placements_is_better(seed: int, order: int, count: int) -> None:
    """Dynamic programming against trying each of them."""
    made = placement(random_runs(seed), order)
    longest = -(-3 * TOTAL // count)
    every = [
        (0, *rest)
        for rest in itertools.combinations(range(1, TOTAL), count - 1)
        if all(b - a <= longest for a, b in itertools.pairwise((0, *rest)))
    ]
    found = made.best(count)
    assert found in every
    assert whole_cost(made, found) == pytest.approx(min(whole_cost(made, one) for one in every))


@pytest.mark.parametrize("count", [TOTAL, TOTAL + 3])
def test_all_of_the_steps(count: int) -> None:
    """As many as there are, and no more."""
    assert placement(random_runs(0)).best(count) == tuple(range(TOTAL))


def test_one_step_is_the_first() -> None:
    """Without which there is nothing to reuse."""
    assert placement(random_runs(0)).best(1) == (0,)


def test_what_is_emphasised_gets_the_steps() -> None:
    """Early or late."""
    made = placement(random_runs(1))
    early, late = made.best(4, (1.5, -1.5)), made.best(4, (-1.5, 1.5))
    assert sum(early) < sum(made.best(4)) <= sum(late) or sum(early) <= sum(made.best(4)) < sum(
        late
    )


def test_what_two_outputs_tell_costs_nothing() -> None:
    """On a line any two computed steps are enough, and one is not."""
    generator = torch.Generator().manual_seed(0)
    base, slope = torch.randn(2, 1, 40, generator=generator)
    run = trajectory([base + n * slope for n in range(TOTAL)], [-0.1] * TOTAL)
    made = placement([run])
    scale = made.cost((0,), 4)
    assert scale > 1e-3
    assert made.cost((0, 1), TOTAL) < 1e-6 * scale
    assert made.cost((1, 3), 7) < 1e-6 * scale


def test_a_computed_step_costs_nothing_by_itself() -> None:
    """The stretch from a step to the next has its own output."""
    made = placement(random_runs(2))
    assert made.cost((0, 2), 3) < 1e-6 * made.cost((0, 2), 6)
