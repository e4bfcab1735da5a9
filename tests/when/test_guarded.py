"""Computing where the outputs bend, however the input is batched, split and guided."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import autocache
from autocache.errors import ParameterError
from autocache.how import Extrapolate, Forecast
from autocache.when import Chosen, Guarded, Interval, When
from autocache.where import Denoiser

STEPS = 40


class Turning(nn.Module):
    """Its output follows a line in time but for two bends, as sharp as each sample says."""

    def forward(self, hidden_states: torch.Tensor, timestep: float) -> torch.Tensor:
        share = timestep / 1000
        line = torch.full_like(hidden_states, 1.0 + share)
        return line + hidden_states * math.tanh(5 * (share - 0.5))


def drive(
    sharpness: Sequence[float], when: When, **options: object
) -> tuple[list[int], list[torch.Tensor]]:
    """The computed steps of one generation, and the output of every step."""
    model = Turning()
    given = torch.tensor(sharpness)[:, None].expand(-1, 3).contiguous()
    parts = {"when": when, "where": Denoiser(), "how": Forecast(None), **options}
    with autocache.patched(model, **parts) as patch:
        outputs = [model(given, timestep=1000.0 - 25 * n) for n in range(STEPS)]
        steps = [r.step for r in patch.stats().steps if r.action == "computed"]
    return steps, outputs


def errors(sharpness: Sequence[float], outputs: Sequence[torch.Tensor]) -> list[float]:
    """Relative to the exact output, the worst sample of each step."""
    model = Turning()
    given = torch.tensor(sharpness)[:, None].expand(-1, 3)
    exact = [model(given, timestep=1000.0 - 25 * n) for n in range(STEPS)]
    pairs = zip(outputs, exact, strict=True)
    return [float(((a - b).abs().mean(1) / b.abs().mean(1)).max()) for a, b in pairs]


SCHEDULE = Chosen(tuple(range(0, STEPS, 8)), STEPS)


def test_a_hard_input_costs_steps_and_not_quality() -> None:
    """The schedule alone is far off where the output bends; guarded, it is computed there."""
    easy, _ = drive([0.0], Guarded(SCHEDULE, 0.05))
    hard, guarded = drive([0.6], Guarded(SCHEDULE, 0.05))
    _, plain = drive([0.6], SCHEDULE)
    assert len(easy) < len(hard) < STEPS // 2
    assert max(errors([0.6], plain)) > 0.3
    assert max(errors([0.6], guarded)) < 0.05


def test_computed_is_what_the_schedule_computes_and_more() -> None:
    """And just that where any error is allowed."""
    for bound in (0.02, 0.05, 0.1):
        assert set(SCHEDULE.steps) < set(drive([0.6], Guarded(SCHEDULE, bound))[0])
    assert drive([0.6], Guarded(SCHEDULE, 1e9))[0] == [0, 1, *SCHEDULE.steps[1:]]


@pytest.mark.parametrize("inner", [None, SCHEDULE, Interval(5)], ids=["alone", "chosen", "every 5"])
@pytest.mark.parametrize("how", [Forecast(None), Extrapolate(1)], ids=["forecast", "taylor"])
def test_less_error_is_never_fewer_steps(inner: When | None, how: Forecast | Extrapolate) -> None:
    """From all of them at 0; also with another rule that fills in, which keeps two values."""
    bounds = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
    counts = [len(drive([0.6], Guarded(inner, bound), how=how)[0]) for bound in bounds]
    assert counts[0] == STEPS
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3


@pytest.mark.parametrize("inner", [None, SCHEDULE])
def test_the_worst_sample_of_a_batch_counts(inner: When | None) -> None:
    """It is computed as often as for the hardest input alone, wherever that is in the batch."""
    rule = Guarded(inner, 0.05)
    alone = drive([0.6], rule)[0]
    assert len(drive([0.0], rule)[0]) < len(alone)
    for batch in ([0.0, 0.6], [0.6, 0.0, 0.3]):
        assert drive(batch, rule)[0] == alone


def test_what_is_expected_is_recorded() -> None:
    """It grows from step to step until a step is computed for it, and is never above the bound in
    a step that is skipped."""
    model = Turning()
    parts = {"when": Guarded(None, 0.05), "where": Denoiser(), "how": Forecast(None)}
    with autocache.patched(model, **parts) as patch:
        for n in range(STEPS):
            model(torch.full((1, 3), 0.6), timestep=1000.0 - 25 * n)
        records = patch.stats().steps
    assert records[0].distance is None or records[0].distance == math.inf
    skipped = [r.distance for r in records if r.action != "computed"]
    assert all(distance is not None and 0 <= distance <= 0.05 for distance in skipped)
    computed = [r.distance for r in records[2:] if r.action == "computed"]
    assert all(distance is not None and distance > 0.05 for distance in computed)


def test_no_number_is_computed() -> None:
    """A comparison with what is no number is false, and then nothing may be skipped."""
    steps, _ = drive([math.nan], Guarded(None, 0.5))
    assert steps == list(range(STEPS))


@pytest.mark.parametrize("bound", [-0.1, math.nan])
def test_a_bound_that_is_none(bound: float) -> None:
    """Refused when the rule is made."""
    with pytest.raises(ValueError, match=r"max_error=.* expected a number from 0 on"):
        Guarded(None, bound)
    with pytest.raises(ParameterError, match="max_error="):
        autocache.patch(Turning(), "auto", max_error=bound)


def test_a_schedule_takes_a_bound_too() -> None:
    """Where its weights were not fitted for just its steps."""
    model, given = Turning(), torch.full((1, 3), 0.6)
    schedule = {"steps": SCHEDULE.steps, "total": STEPS}
    with autocache.patched(model, "schedule", **schedule, max_error=0.05) as patch:
        for n in range(STEPS):
            model(given, timestep=1000.0 - 25 * n)
        done = [r.step for r in patch.stats().steps if r.action == "computed"]
    assert done == drive([0.6], Guarded(SCHEDULE, 0.05))[0]
    weights = {"0": [[[1.0]]] * STEPS}
    with pytest.raises(ParameterError, match="just these computed steps"):
        autocache.patch(model, "schedule", **schedule, weights=weights, max_error=0.05)
