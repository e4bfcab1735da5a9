"""TaylorSeer's schedule, its history, what it is exact for, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autocache
from tiny import build
from toy import SPEC, ToyBlock, ToyDenoiser, added


class Polynomial(nn.Module):
    """A denoiser without a spec, whose output depends on the timestep alone."""

    def __init__(self, *coefficients: float) -> None:
        super().__init__()
        self.coefficients = coefficients

    def forward(self, hidden_states: torch.Tensor, timestep: float) -> torch.Tensor:
        value = sum(c * timestep**n for n, c in enumerate(self.coefficients))
        return torch.full_like(hidden_states, value)


def values(model: nn.Module, times: list[float]) -> list[float]:
    latent = torch.zeros(1, 1, dtype=torch.float64)
    return [float(model(latent, time)) for time in times]


def forecast(model: nn.Module, times: list[float], **options: Any) -> tuple[list[float], str]:
    """What comes out, and which steps were computed."""
    with autocache.patched(model, "taylorseer", scope="output", **options) as patch:
        made = values(model, times)
        actions = "".join(step.action[0] for step in patch.stats().steps)
    return made, actions


FALLING = [float(20 - step) for step in range(16)]
UNEQUAL = [1.0 - 0.004 * step * (step + 5) for step in range(14)]


def official(steps: int, interval: int, first: int) -> str:
    """The published counter: c computed, p predicted."""
    made, skipped = "", 0
    for step in range(steps):
        full = step == 0 or step < first or skipped == interval - 1
        skipped = 0 if full else skipped + 1
        made += "c" if full else "p"
    return made


@pytest.mark.parametrize("interval", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 5])
def test_the_published_schedule(interval, first):
    """All warm-up steps, then one computed step after `interval - 1` forecast ones."""
    _, actions = forecast(Polynomial(1.0), FALLING, interval=interval, warmup_steps=first)
    assert actions == official(16, interval, max(first, 1))


def test_the_phase_of_diffusers():
    """Computed: below `before`, or (step - before - 1) mod interval is 0."""
    _, actions = forecast(Polynomial(1.0), FALLING, interval=4, warmup_steps=3, phase="diffusers")
    assert actions == "".join("c" if i < 3 or (i - 4) % 4 == 0 else "p" for i in range(16))


@pytest.mark.parametrize(("phase", "third"), [("published", 4 + 3), ("diffusers", 4 + 3 + 1)])
def test_the_history_before_the_anchor(phase, third):
    """Published, the last two of three warm-up steps give a line; diffusers takes all three."""
    model = Polynomial(400.0, -40.0, 1.0)  # (20 - t)^2: the square of the step
    made, actions = forecast(model, FALLING, interval=5, order=2, warmup_steps=3, phase=phase)
    assert actions[:4] == "cccp"
    assert made[:4] == [0.0, 1.0, 4.0, third]


class Attending(ToyBlock):
    """Adds what its attention returns, which is the number of the step."""

    def forward(self, hidden_states: torch.Tensor, step: int) -> torch.Tensor:
        self.ran.append(step)
        return hidden_states + self.attn(hidden_states, step)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("scope", ["submodules", "stack"])
def test_exact_for_what_is_linear_in_the_step(scope, order):
    """What attention and stack add grows on a line with the step: nothing of it is lost."""
    model = ToyDenoiser(4)
    model.blocks = nn.ModuleList(Attending(number) for number in range(4))
    expected = added(model, 12)
    options = {"scope": scope, "order": order, "interval": 4}
    with autocache.patched(model, "taylorseer", spec=SPEC, **options) as patch:
        # Weights such as 1/3 are inexact, and what they weigh is a thousand times the sum.
        assert added(model, 12) == pytest.approx(expected, abs=1e-3)
        actions = "".join(step.action[0] for step in patch.stats().steps)
        assert patch.stats().attention.run == 4 * actions.count("c")
    assert actions == "cccpppcpppcp"


@pytest.mark.parametrize("order", [1, 2, 3])
def test_newton_is_exact_for_polynomials_of_the_timestep(order):
    """Once order + 1 values are there, over unequal gaps; taylor is not, for a quadratic."""
    model = Polynomial(*[0.5, -2.0, 3.0, 1.0][: order + 1])
    plain = values(model, UNEQUAL)
    options: dict[str, Any] = {"interval": 2, "order": order, "warmup_steps": 2}
    made, actions = forecast(model, UNEQUAL, basis="newton", **options)
    later = slice(2 * order + 1, None)
    assert "p" in actions[later]
    assert made[later] == pytest.approx(plain[later], abs=1e-5)
    made, _ = forecast(model, UNEQUAL, basis="taylor", **options)
    assert made[later] != pytest.approx(plain[later], abs=1e-5)


def test_order_0_is_reuse_in_every_basis():
    """The output of the last computed step, bit for bit."""
    model = Polynomial(0.3, -1.7, 2.9)
    plain = values(model, FALLING)
    for basis in ("taylor", "newton", "hermite"):
        made, actions = forecast(model, FALLING, interval=3, order=0, basis=basis)
        last = [max(j for j in range(i + 1) if actions[j] == "c") for i in range(len(actions))]
        assert made == [plain[step] for step in last] != plain


@torch.no_grad()
def peak(name: str, steps: int, **options: Any) -> int:
    model, inputs = build(name)
    with autocache.patched(model, "taylorseer", interval=2, **options) as patch:
        for step in range(steps):
            model(**inputs(950.0 - 50 * step))
        return patch.stats().bytes_peak


@pytest.mark.parametrize("order", range(5))
def test_memory(order):
    """(order + 1) tensors for each module, for each stack, or for the output."""
    batch, tokens, channels, float32 = 2, 16, 8, 4
    s = batch * tokens * channels * float32
    assert peak("DiTTransformer2DModel", 14, order=order) == (order + 1) * 3 * 2 * s
    assert peak("DiTTransformer2DModel", 14, order=order, scope="stack") == (order + 1) * s
    output = 2 * 8 * 8 * 8 * float32
    assert peak("DiTTransformer2DModel", 14, order=order, scope="output") == (order + 1) * output
    s = (2 * 4 * 4) * 24 * float32
    assert peak("WanTransformer3DModel", 14, order=order) == (order + 1) * 3 * 3 * s


PUBLISHED = [
    ("FluxTransformer2DModel", "black-forest-labs/FLUX.1-dev", (6, 1, 3)),
    ("WanTransformer3DModel", "Wan-AI/Wan2.1-T2V-14B-Diffusers", (5, 1, 1)),
    ("HunyuanVideoTransformer3DModel", "hunyuanvideo-community/HunyuanVideo", (5, 1, 1)),
    ("DiTTransformer2DModel", "facebook/DiT-XL-2-256", (4, 4, 2)),
    ("CogVideoXTransformer3DModel", "THUDM/CogVideoX-5b", (5, 1, 3)),
]


@pytest.mark.parametrize(("name", "checkpoint", "expected"), PUBLISHED)
def test_published_values(name, checkpoint, expected):
    """Interval, order and warm-up of the checkpoint; what is given stands."""
    from autocache.spec.bind import bind
    from autocache.strategy import get

    model: Any = build(name)[0]
    bound = bind(autocache.patch(model, "taylorseer").spec, model)
    config = {"_name_or_path": checkpoint}
    (made,) = get("taylorseer").create().recipes(bound, config)
    assert (made.when.interval, made.how.order, made.limits.warmup) == expected
    (made,) = get("taylorseer").create(order=0, warmup_steps=7).recipes(bound, config)
    assert (made.when.interval, made.how.order, made.limits.warmup) == (expected[0], 0, 7)
    assert made.when.start == 6


def test_the_output_has_no_blocks_to_choose():
    """`blocks` makes no sense for the whole call: the error says so."""
    model, _ = build("WanTransformer3DModel")
    with pytest.raises(autocache.errors.ParameterError, match="blocks"):
        autocache.patch(model, "taylorseer", scope="output", blocks=(0, 2))
    assert not autocache.is_patched(model)


def test_submodules_of_an_unknown_model_are_refused():
    """Without a spec only the output can be forecast."""
    with pytest.raises(autocache.errors.UnknownModelError):
        autocache.patch(Polynomial(1.0), "taylorseer")
