"""CustomCache: TeaCache's decisions, and a residual that goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autocache
from tiny import build
from toy import SPEC, ToyDenoiser

STEPS = 14


@torch.no_grad()
def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    """The prediction of each step, of a latent that moves by uneven amounts."""
    scale = 0.001 if type(model).__name__.startswith("Flux") else 1.0
    made = []
    for step in range(STEPS):
        given = inputs((950 - 60 * step) * scale)
        given["hidden_states"] = given["hidden_states"] * (1 + 0.02 * step + 0.1 * (step % 3 == 0))
        made.append(model(**given)[0].clone())
    return made


NAMES = ["FluxTransformer2DModel", "WanTransformer3DModel", "CogVideoXTransformer3DModel"]


OPTIONS = [{"coefficients": (1.0, 0.0)}, {"threshold": 0.6, "coefficients": (2.0, 0.1)}]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS)
def test_order_0_is_teacache(name, options):
    """Bit for bit, with a threshold or a relative one; order 1 decides alike and differs."""
    made, skipped = {}, {}
    for strategy, order in (("teacache", {}), ("customcache", {"order": 0}), ("customcache", {})):
        model, inputs = build(name)
        with autocache.patched(model, strategy, **options, **order) as patch:
            key = (strategy, *order)
            made[key] = outputs(model, inputs)
            skipped[key] = [step.blocks_skipped for step in patch.stats().steps]
    tea, flat, line = made.values()
    assert all(map(torch.equal, tea, flat))
    assert not all(map(torch.equal, tea, line))
    assert len(set(map(tuple, skipped.values()))) == 1
    assert 0 < sum(map(bool, next(iter(skipped.values())))) < STEPS - 2


def by_hand(latents: list[float], adds: list[float], threshold: float) -> tuple[list[float], str]:
    """LightX2V's steps on scalars: what each adds to its latent, and which were computed."""
    made, letters = [], ""
    before = total = slope = residual = 0.0
    last = 0
    for i, (latent, amount) in enumerate(zip(latents, adds, strict=True)):
        compute = i == 0
        if not compute:
            total += abs(latent - before) / abs(before)
            compute = total >= threshold
        before = latent
        if compute:
            total = 0.0
            if i > 0:
                slope = (amount - residual) / (i - last)
            residual, last = amount, i
        letters += "c" if compute else "p"
        made.append(amount if compute else residual + slope * (i - last))
    return made, letters


def test_the_recursion_over_irregular_gaps():
    """Decisions, slope and forecast are those of the published steps, on scalars."""
    told = SPEC.model_dump(by_alias=True) | {"probes": {"latent": {"argument": "hidden_states"}}}
    spec = type(SPEC).model_validate(told)
    growth = [0.05, 0.2, 0.02, 0.11, 0.16, 0.01, 0.09, 0.3, 0.04, 0.04, 0.04, 0.04, 0.04]
    latents = [1.0]
    for one in growth:
        latents.append(latents[-1] * (1 + one))
    # The toy takes the timestep for the step: three blocks add 6 (time + 1), along a curve.
    times = [step + step * step // 5 for step in range(len(latents))]
    model = ToyDenoiser(3)
    options = {"threshold": 0.25, "coefficients": (1.0, 0.0), "last_steps": 0}
    with autocache.patched(model, "customcache", spec=spec, **options) as patch:
        made = []
        for latent, time in zip(latents, times, strict=True):
            hidden = torch.full((1, 2), latent, dtype=torch.float64)
            made.append(float((model(hidden, time) - hidden)[0, 0]))
        letters = "".join(record.action[0] for record in patch.stats().steps)
    expected, computed = by_hand(latents, [6.0 * (time + 1) for time in times], 0.25)
    assert letters == computed
    assert len({len(run) for run in computed.split("c")[1:]}) > 2
    assert made == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_memory(order):
    """(order + 1) residuals of the one stream, and the probe."""
    model, inputs = build("WanTransformer3DModel")
    options = {"threshold": 0.02, "coefficients": (1.0, 0.0), "probe": "modulated_input"}
    with autocache.patched(model, "customcache", order=order, **options) as patch:
        outputs(model, inputs)
        stats = patch.stats()
    s = probe = (2 * 4 * 4) * 24 * 4
    assert sum(step.action == "computed" for step in stats.steps) > 3
    assert stats.bytes_peak == (order + 1) * s + probe


def test_no_published_decision_is_its_own():
    """Coefficients, threshold and protected steps are TeaCache's, by checkpoint."""
    from autocache.spec.bind import bind
    from autocache.spec.registry import resolve
    from autocache.strategy import get

    model: Any = build("WanTransformer3DModel")[0]
    bound = bind(resolve(None, model), model)
    config = {"_name_or_path": "Wan-AI/Wan2.1-T2V-14B"}
    (tea,), (custom,) = (
        get(n).create().recipes(bound, config) for n in ("teacache", "customcache")
    )
    assert custom.when == tea.when
    assert custom.limits == tea.limits
    assert (tea.how.keep, custom.how.keep) == (1, 2)
