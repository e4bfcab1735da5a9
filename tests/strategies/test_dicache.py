"""DiCache on scalars, and against a transcription of its published loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autocache
from autocache.spec.schema import Spec
from tiny import build
from toy import SPEC, ToyDenoiser, added, executed
from trajectory import NAMES, run

FLOAT = 4
FLUX_IMAGE, FLUX_TEXT = 16 * 32 * FLOAT, 12 * 32 * FLOAT
"""Bytes of the two streams of the tiny Flux."""


class Wave(nn.Module):
    """A block that neither the step nor the state goes through linearly."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, hidden_states: torch.Tensor, step: float) -> torch.Tensor:
        moved = torch.sin(hidden_states * (1 + 0.3 * self.number) + step * 0.2)
        return hidden_states + 0.4 * moved / (1 + self.number)


class Waves(nn.Module):
    """Two stacks of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(Wave(number) for number in range(3))
        self.second = nn.ModuleList(Wave(number) for number in range(2, 4))

    def forward(self, hidden_states: torch.Tensor, timestep: float) -> torch.Tensor:
        for block in (*self.first, *self.second):
            hidden_states = block(hidden_states, step=timestep)
        return hidden_states


def stack(path: str) -> dict:
    streams = {"streams": ["hidden_states"], "returns": "hidden_states"}
    return {"path": path, "block": "Wave", **streams}


WAVES = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{Waves.__module__}:Waves",
        "stacks": [stack("first"), stack("second")],
    }
)


def latents(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    start, end = torch.randn(2, 1, 6, 4, generator=generator, dtype=torch.float64)
    return [torch.lerp(start, end, step / steps) for step in range(steps)]


def published(model: Waves, steps: int, threshold: float, depth: int, error: str, warmup: int):
    """The outputs and computed steps of the authors' loop, with whole-model residuals."""
    blocks = [*model.first, *model.second]
    outputs, computed = [], []
    total, before, residuals, probes = 0.0, None, [], []
    for step, x in enumerate(latents(steps)):
        y = x
        for block in blocks[:depth]:
            y = block(y, step=float(step))
        if before is None or step < warmup:
            run_all, total = True, 0.0
        else:
            was_x, was_y = before
            dx = float((x - was_x).abs().mean() / was_x.abs().mean())
            dy = float((y - was_y).abs().mean() / was_y.abs().mean())
            total += abs(dy - dx) if error == "delta_minus" else dy
            run_all = total >= threshold
            total = 0.0 if run_all else total
        before = x, y
        if run_all:
            out = y
            for block in blocks[depth:]:
                out = block(out, step=float(step))
            residuals.append(out - x)
            probes.append(y - x)
        elif len(residuals) > 1:
            gap = (probes[-1] - probes[-2]).abs().mean()
            gamma = (((y - x) - probes[-2]).abs().mean() / gap).clip(1, 1.5)
            out = x + residuals[-2] + gamma * (residuals[-1] - residuals[-2])
        else:
            out = x + residuals[-1]
        outputs.append(out)
        computed.append(run_all)
    return outputs, computed


@pytest.mark.parametrize(
    ("error", "threshold"), [("delta_y", 0.15), ("delta_y", 0.4), ("delta_minus", 0.1)]
)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("warmup", [1, 4])
def test_follows_the_published_loop(error, threshold, depth, warmup):
    """Same steps computed, and the same outputs: each stack's residual moves on by the same share,
    so that their sum is the authors' residual of the whole model."""
    model = Waves()
    expected, computed = published(model, 24, threshold, depth, error, warmup)
    options = {"error": error, "threshold": threshold, "depth": depth, "warmup_steps": warmup}
    with autocache.patched(model, "dicache", spec=WAVES, **options) as patch:
        outputs = [model(x, float(step)) for step, x in enumerate(latents(24))]
        records = patch.stats().steps
    assert [record.action == "computed" for record in records] == computed
    assert 2 < sum(computed) < 22
    for own, other in zip(outputs, expected, strict=True):
        # The progress is measured in float32.
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_scalars():
    """What is linear in the step is continued exactly, up to half the last change."""
    model = ToyDenoiser(4)
    options = {"threshold": 0.6, "warmup_steps": 2}
    with autocache.patched(model, "dicache", spec=SPEC, **options):
        sums = added(model, 10)
    trace = "CCrCrrCrrr"
    assert executed(model, 10) == [{"C": "CCCC", "r": "Crrr"}[letter] for letter in trace]
    assert sums == pytest.approx([10, 20, 25, 40, 50, 50, 70, 80, 85, 85])


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_of_zero_computes_everything(name):
    """Bit for bit the plain model, with nothing kept; and no trace is left."""
    model, inputs = build(name)
    plain = run(model, inputs, 6)
    with autocache.patched(model, "dicache", threshold=0) as patch:
        assert all(map(torch.equal, run(model, inputs, 6), plain))
        assert patch.stats().bytes_peak == 0
    assert all(map(torch.equal, run(model, inputs, 6), plain))


@pytest.mark.parametrize(("error", "probes"), [("delta_y", 3), ("delta_minus", 4)])
def test_memory(error, probes):
    """The probe's states and last two residuals, and two residuals per stream of both stacks."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"error": error, "threshold": 2.0, "warmup_steps": 3}
    with autocache.patched(model, "dicache", **options) as patch:
        first, second = run(model, inputs, 12), run(model, inputs, 12)
        stats = patch.stats()
    assert all(map(torch.equal, first, second))
    assert stats.bytes_peak == probes * FLUX_IMAGE + 2 * (FLUX_IMAGE + FLUX_TEXT)
    assert {step.action for step in stats.steps} == {"computed", "predicted"}


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_takes_the_same_decisions(name):
    """It computes everything, on the decisions of a real run, and tells the error."""
    model, inputs = build(name)
    options = {"threshold": 0.9, "warmup_steps": 2}
    plain = run(model, inputs, 10)
    with autocache.patched(model, "dicache", **options) as patch:
        run(model, inputs, 10)
        real = [step.action for step in patch.stats().steps]
    with autocache.patched(model, "dicache", dry_run=True, **options) as patch:
        assert all(map(torch.equal, run(model, inputs, 10), plain))
        dry = patch.stats().steps
    assert [step.action for step in dry] == real
    assert "predicted" in real
    assert all((step.error or 0) > 0 for step in dry if step.action == "predicted")


def test_a_depth_that_leaves_nothing_is_refused():
    """The error tells how many blocks there are."""
    model, _ = build("WanTransformer3DModel")
    with pytest.raises(autocache.errors.ParameterError, match="depth=3 leaves none of the 3"):
        autocache.patch(model, "dicache", depth=3)
    assert not autocache.is_patched(model)
