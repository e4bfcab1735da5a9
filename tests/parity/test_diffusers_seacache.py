"""SeaCache as diffusers implements it, step by step."""

from __future__ import annotations

import pytest
import torch
from diffusers import SeaCacheConfig

import autocache
from tiny import build

STEPS = 16
NAME = "WanTransformer3DModel"
# The spectrum is weighed by a gain that is multiplied up in another order, and the residual is
# extrapolated in float32 from two weights instead of a difference: a few units in the last place.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def path() -> list[tuple[torch.Tensor, float]]:
    """A flow from noise to a picture: latent and noise level of each step."""
    generator = torch.Generator().manual_seed(3)
    noise, picture = (torch.randn(1, 4, 2, 8, 8, generator=generator) for _ in range(2))
    picture = torch.nn.functional.avg_pool3d(picture, (1, 3, 3), 1, (0, 1, 1)) * 2
    sigmas = [1 - 0.97 * step / STEPS for step in range(STEPS)]
    return [(torch.lerp(picture, noise, sigma), sigma) for sigma in sigmas]


@torch.no_grad()
def run(model, inputs) -> list[torch.Tensor]:
    """The prediction of each step, the loop announcing its noise level as pipelines do."""
    outputs = []
    for step, (latent, sigma) in enumerate(path()):
        with model.cache_context("cond", step_index=step, sigma=sigma, num_inference_steps=STEPS):
            given = inputs(sigma * 1000) | {"hidden_states": latent}
            outputs.append(model(**given)[0].clone())
    return outputs


def ran(model) -> list[int]:
    """Counts, per denoiser call, how often the last block was run."""
    counts: list[int] = []
    model.register_forward_pre_hook(lambda *_: counts.append(0))
    ffn = model.blocks[-1].ffn
    ffn.register_forward_hook(lambda *_: counts.__setitem__(-1, counts[-1] + 1))
    return counts


@pytest.mark.parametrize("threshold", [0.18, 0.25, 0.6])
@pytest.mark.parametrize("order", [0, 1])
def test_same_steps_and_same_predictions(threshold, order):
    """Both compute the same steps, and predict the same."""
    theirs, inputs = build(NAME)
    counted = ran(theirs)
    theirs.enable_cache(SeaCacheConfig(threshold=threshold, residual_order=order))
    expected = run(theirs, inputs)

    ours, inputs = build(NAME)
    # The loop is bare, without a scheduler to say how many steps there are.
    options = {"threshold": threshold, "order": order, "step_window": (0, STEPS - 2)}
    plain = run(ours, inputs)
    with autocache.patched(ours, "seacache", **options) as patch:
        outputs = run(ours, inputs)
        records = patch.stats().steps
    computed = [record.action == "computed" for record in records]
    assert computed == [count == 1 for count in counted]
    assert 0 < sum(computed) < STEPS - 3
    for own, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(own, other, **TOLERANCE)
    differ = [not torch.equal(a, b) for a, b in zip(outputs, plain, strict=True)]
    assert differ == [not kept for kept in computed]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_memory(order):
    """Per branch `order + 1` residuals of the one stream, and the filtered latent."""
    model, inputs = build(NAME)
    with autocache.patched(model, "seacache", threshold=0.25, order=order) as patch:
        run(model, inputs)
        held = patch.stats().bytes_peak
    residual = 1 * (2 * 4 * 4) * 24 * 4
    latent = path()[0][0].numel() * 4
    assert held == (order + 1) * residual + latent


def test_a_threshold_of_zero_computes_everything():
    """Nothing is measured and nothing skipped: bit for bit the plain model."""
    model, inputs = build(NAME)
    plain = run(model, inputs)
    with autocache.patched(model, "seacache", threshold=0):
        outputs = run(model, inputs)
    assert all(map(torch.equal, outputs, plain))


def test_latents_that_are_no_grid_are_refused():
    """Packed tokens have no frequencies: the error says so, and the model stays as it was."""
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(autocache.errors.ParameterError, match="no grid"):
        autocache.patch(model, "seacache")
    assert not autocache.is_patched(model)
