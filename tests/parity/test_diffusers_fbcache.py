"""First Block Cache as diffusers implements it, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import autocache
from tiny import build
from trajectory import calls, path, run

STEPS = 16
# diffusers adds one residual over all stacks to the first block's output, we add each stack's at
# its end: the same sum in another order, so a few units in the last place of float32.
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}

LAST = {
    "FluxTransformer2DModel": "single_transformer_blocks.2.proj_mlp",
    "WanTransformer3DModel": "blocks.2.ffn",
    "CogVideoXTransformer3DModel": "transformer_blocks.2.ff",
}
"""A module of each model's last block, which runs whenever the whole block does."""

CASES = [
    ("FluxTransformer2DModel", 0.25),
    ("FluxTransformer2DModel", 0.3),
    ("FluxTransformer2DModel", 0.5),
    ("WanTransformer3DModel", 0.05),
    ("WanTransformer3DModel", 0.08),
    ("WanTransformer3DModel", 0.2),
    ("CogVideoXTransformer3DModel", 0.08),
    ("CogVideoXTransformer3DModel", 0.12),
    ("CogVideoXTransformer3DModel", 0.2),
]


@pytest.mark.parametrize(("name", "threshold"), CASES)
def test_same_steps_and_same_predictions(name, threshold):
    """Both compute the same steps, and predict the same."""
    theirs: Any
    theirs, inputs = build(name)
    counted = calls(theirs, theirs.get_submodule(LAST[name]))
    theirs.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    expected = run(theirs, inputs, STEPS, context=True)

    ours, inputs = build(name)
    plain = run(ours, inputs, STEPS)
    with autocache.patched(ours, "fbcache", threshold=threshold) as patch:
        outputs = run(ours, inputs, STEPS, context=True)
        records = patch.stats().steps
    computed = [record.action == "computed" for record in records]
    assert computed == [count == 1 for count in counted]
    assert 1 < sum(computed) < STEPS - 1
    for own, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(own, other, **TOLERANCE)
    differ = [not torch.equal(a, b) for a, b in zip(outputs, plain, strict=True)]
    assert differ == [not kept for kept in computed]


def test_guidance_branches_keep_apart():
    """Two calls per step under two names decide and skip apart, as they do under diffusers'."""
    name, threshold = "WanTransformer3DModel", 0.08
    texts = torch.randn(2, 1, 12, 16, generator=torch.Generator().manual_seed(9)) * 3

    @torch.no_grad()
    def guided(model, inputs) -> list[torch.Tensor]:
        outputs = []
        for latent, time in path(name, STEPS):
            for branch, text in zip(("cond", "uncond"), texts, strict=True):
                given = inputs(time) | {"hidden_states": latent, "encoder_hidden_states": text}
                with model.cache_context(branch):
                    outputs.append(model(**given)[0].clone())
        return outputs

    theirs: Any
    theirs, inputs = build(name)
    counted = calls(theirs, theirs.get_submodule(LAST[name]))
    theirs.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    expected = guided(theirs, inputs)
    ours, inputs = build(name)
    with autocache.patched(ours, "fbcache", threshold=threshold) as patch:
        outputs = guided(ours, inputs)
        records = patch.stats().steps
    assert [record.action == "computed" for record in records] == [n == 1 for n in counted]
    assert counted[::2] != counted[1::2]
    for own, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(own, other, **TOLERANCE)
