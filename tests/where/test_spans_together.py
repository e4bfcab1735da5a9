"""Stacks of which one goes on with what the one before it returned: one residual for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.how import Extrapolate, Reuse
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Blocks

Between = Callable[[torch.Tensor], torch.Tensor]
ONE = 6 * 4 * 4
"""Bytes of the stream."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ff = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.ff(x) * level)


class Denoiser(nn.Module):
    """Two stacks; `between` is done to what is between them, and `passes` is how often the first
    one is run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([Block(), Block()])
        self.second = nn.ModuleList([Block(), Block(), Block()])
        self.between: Between = lambda x: x
        self.passes, self.ends_early = 1, False

    def forward(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        level = torch.as_tensor(timestep)
        x = x * level
        for _ in range(self.passes):
            for block in self.first:
                x = block(x, level)
        x = self.between(x)
        for block in () if self.ends_early else self.second:
            x = block(x, level)
        return x * 2


SPEC = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{__name__}:Denoiser",
        "latent": "x",
        "stacks": [
            {"path": path, "block": "Block", "streams": ["x"], "returns": "x"}
            for path in ("first", "second")
        ],
    }
)
TIMES = (9.0, 8.0, 7.0, 6.0, 5.0, 4.0)
DRAWN = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser().requires_grad_(False)


def patched(model: Denoiser, how: Any = None, **options: Any) -> Any:
    """Every second step skips, from the second one on."""
    parts = {"when": Interval(2, start=0), "where": Blocks(), "how": how or Reuse()}
    return autocache.patched(model, spec=SPEC, **parts, **options)


def stack(blocks: Any, x: torch.Tensor, time: float) -> torch.Tensor:
    for block in blocks:
        x = block(x, torch.as_tensor(time))
    return x


def added(model: Denoiser, time: float, between: Between) -> torch.Tensor:
    """What all blocks, and what is between the stacks, add in a computed step."""
    x = DRAWN * time
    return stack(model.second, between(stack(model.first, x.clone(), time)), time) - x


def in_place(x: torch.Tensor) -> torch.Tensor:
    return x.add_(0.5)


@pytest.mark.parametrize("between", [lambda x: x, in_place], ids=["nothing", "in place"])
def test_one_residual(model: Denoiser, between: Between) -> None:
    """It is that of both, with what the model writes between them, and is kept once."""
    model.between = between
    with patched(model) as patch:
        for step, time in enumerate(TIMES):
            found = model(DRAWN, time)
            x = DRAWN * time
            kept = added(model, TIMES[step - step % 2], between)
            assert torch.allclose(found, (x + kept) * 2, atol=1e-6), step
        stats = patch.stats()
    assert stats.bytes_peak == ONE
    assert [step.blocks_skipped for step in stats.steps] == [0, 5] * 3
    assert stats.steps[1].sites == {"first[0:2]": "reused", "second[0:3]": "reused"}


def test_another_tensor_between_has_a_residual_for_each(model: Denoiser) -> None:
    """What the model adds between two skipped stacks is that of the step. None skips later."""
    model.between = lambda x: x + 0.5
    with patched(model) as patch:
        for step, time in enumerate(TIMES):
            found = model(DRAWN, time)
            then = TIMES[step - step % 2]
            middle = stack(model.first, DRAWN * then, then)
            one, other = middle - DRAWN * then, stack(model.second, middle + 0.5, then)
            expected = DRAWN * time + one + 0.5 + (other - (middle + 0.5))
            assert torch.allclose(found, expected * 2, atol=1e-6), step
        stats = patch.stats()
    assert stats.bytes_peak == 2 * ONE
    assert [step.blocks_skipped for step in stats.steps] == [0, 5] * 3


def test_they_part(model: Denoiser) -> None:
    """From then on that the model puts another tensor between them; nothing is added twice, and
    what they kept together is let go of."""
    with patched(model) as patch:
        for time in TIMES[:2]:
            model(DRAWN, time)
        model.between = lambda x: x + 0.5
        for time in TIMES[2:4]:
            found = model(DRAWN, time)
        held = patch.stats().bytes_held
    middle = stack(model.first, DRAWN * 7.0, 7.0)
    rest = stack(model.second, middle + 0.5, 7.0) - (middle + 0.5)
    expected = DRAWN * 6.0 + (middle - DRAWN * 7.0) + 0.5 + rest
    assert torch.allclose(found, expected * 2, atol=1e-6)
    assert held == 2 * ONE


@pytest.mark.parametrize("between", [lambda x: x + 0.5, lambda x: in_place(x) + 0.5])
def test_they_part_where_nobody_notices_a_write(model: Denoiser, between: Between) -> None:
    """In inference mode tensors do not tell whether they were written to: what has to be known too
    late is not kept, and from the next time on each keeps its own."""
    model.between = lambda x: x
    with patched(model) as patch, torch.inference_mode():
        for time in TIMES[:2]:
            model(DRAWN, time)
        model.between = between
        outputs = [model(DRAWN, time) for time in TIMES[2:]]
        skipped = [step.blocks_skipped for step in patch.stats().steps]
    assert skipped == [0, 5, 0, 3, 0, 5]
    middle = stack(model.first, DRAWN * 5.0, 5.0)
    entered = between(middle.clone())
    rest = stack(model.second, entered, 5.0) - entered
    expected = between(DRAWN * 4.0 + (middle - DRAWN * 5.0)) + rest
    assert torch.allclose(outputs[-1], expected * 2, atol=1e-6)


def test_a_stack_that_is_not_reached(model: Denoiser) -> None:
    """The one before it keeps its own, from the second computed step on."""
    model.ends_early = True
    with patched(model) as patch:
        for time in TIMES:
            found = model(DRAWN, time)
        skipped = [step.blocks_skipped for step in patch.stats().steps]
    assert skipped == [0, 0, 0, 2, 0, 2]
    assert found.isfinite().all()


def test_the_second_stack_alone(model: Denoiser) -> None:
    """It does not add what the first one would have."""
    with patched(model) as patch:
        model(DRAWN, TIMES[0])
        model.passes = 0
        found = model(DRAWN, TIMES[1])
        assert patch.stats().steps[-1].sites == {"second[0:3]": "computed"}
    expected = stack(model.second, DRAWN * 8.0, 8.0)
    assert torch.allclose(found, expected * 2, atol=1e-6)


def test_a_limit_on_memory(model: Denoiser) -> None:
    """What is foreseen to be kept is one residual, which fits when it is half as large."""
    with patched(model, memory_limit=ONE // 2, memory_fit=("bf16", "int8")) as patch:
        for time in TIMES:
            model(DRAWN, time)
        stats = patch.stats()
    assert {place.form for place in stats.memory.places} == {"bf16"}
    assert [step.blocks_skipped for step in stats.steps] == [0, 5] * 3


def test_several_passes_each_add_something(model: Denoiser) -> None:
    """A stack that is run twice in a call does not leave its residual to the next one."""
    model.passes = 2
    with patched(model) as patch:
        model(DRAWN, TIMES[0])
        found = model(DRAWN, TIMES[1])
        assert patch.stats().bytes_held == 2 * ONE
    once = stack(model.first, DRAWN * 9.0, 9.0)
    twice = stack(model.first, once, 9.0)
    rest = stack(model.second, twice, 9.0) - twice
    assert torch.allclose(found, (DRAWN * 8.0 + 2 * (twice - once) + rest) * 2, atol=1e-5)


def test_what_is_between_skipped_stacks_may_be_written_to(model: Denoiser) -> None:
    """Where only the skipped step writes there, it counts for nothing, as between blocks."""
    with patched(model):
        model(DRAWN, TIMES[0])
        model.between = in_place
        found = model(DRAWN, TIMES[1])
    expected = DRAWN * 8.0 + added(model, 9.0, lambda x: x)
    assert torch.allclose(found, expected * 2, atol=1e-6)


def test_a_forecast_of_both(model: Denoiser) -> None:
    """A line through the residuals of two computed steps."""
    with patched(model, Extrapolate(order=1)) as patch:
        for time in TIMES[:4]:
            found = model(DRAWN, time)
        assert patch.stats().bytes_held == 2 * ONE
    now, before = added(model, 7.0, lambda x: x), added(model, 9.0, lambda x: x)
    expected = DRAWN * 6.0 + now + (now - before) / 2
    assert torch.allclose(found, expected * 2, atol=1e-5)


def test_a_dry_run_compares_what_leaves_both(model: Denoiser) -> None:
    """Everything is computed, and the error is that of the whole."""
    with patched(model, dry_run=True) as patch:
        outputs = [model(DRAWN, time) for time in TIMES[:2]]
        step = patch.stats().steps[1]
    assert torch.equal(outputs[1], model(DRAWN, TIMES[1]))
    real = outputs[1] / 2
    filled = DRAWN * 8.0 + added(model, 9.0, lambda x: x)
    error = float((filled - real).abs().mean() / real.abs().mean())
    assert step.error == pytest.approx(error, rel=1e-4)
