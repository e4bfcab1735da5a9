"""Guidance that leaves layers or attention out: skip-layer guidance, PAG, and their guiders."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from company.adapted import skipping, watched
from diffusers.guiders import SkipLayerGuidance, SmoothedEnergyGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep

import autocache
import tiny
from autocache.authoring.instance import pipeline_of, run_loop
from autocache.spec.loader import load
from autocache.spec.schema import Spec
from devices import DEVICE

STEPS = 6
FILES = Path(__file__).parents[2] / "model_specs"
SLG: dict[str, Any] = {
    "skip_guidance_layers": [2],
    "skip_layer_guidance_start": 0.1,
    "skip_layer_guidance_stop": 0.7,
}
LOOPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sd3 skip layers": ("SD3Transformer2DModel", "StableDiffusion3Pipeline skip layers", SLG),
    "sd3 pag": ("SD3Transformer2DModel", "StableDiffusion3PAGPipeline", {}),
    "sd pag": ("UNet2DConditionModel", "StableDiffusionPAGPipeline", {}),
}
IN_STACKS: dict[str, dict[str, Any]] = {
    "dit_block": {"step_start": 0, "step_interval": 2, "blocks": (0, 2)},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 0.9},
    "fbcache": {"threshold": 0.9},
    "attention": {"step_start": 0, "step_interval": 2},
    "auto": {"speedup": 3.0},
    "invariant": {},
}
IN_LEVELS: dict[str, dict[str, Any]] = {
    "deepcache": {"interval": 3},
    "attention": {"step_start": 0, "step_interval": 2},
    "auto": {"speedup": 3.0},
    "invariant": {},
}
PAIRS = [
    (name, strategy)
    for name in LOOPS
    for strategy in (IN_LEVELS if name == "sd pag" else IN_STACKS)
]


@functools.cache
def _spec(name: str) -> Spec:
    return load(FILES / f"{name}.yaml")


def _parameters(name: str, strategy: str) -> dict[str, Any]:
    return (IN_LEVELS if name == "sd pag" else IN_STACKS)[strategy]


class Ran:
    """One generation: what came out, and how many blocks and attentions ran."""

    def __init__(self, pipe: Any, run: Any) -> None:
        with watched(pipe) as counts, torch.no_grad():
            self.output: torch.Tensor = run()
        self.counts = Counter(counts)


def _generate(name: str, pipe: Any) -> Ran:
    model, label, options = LOOPS[name]
    given = {"num_inference_steps": STEPS, **options}
    return Ran(pipe, lambda: run_loop(_spec(model), label, pipe, **given)[0])


def _make(name: str) -> Any:
    pipe = pipeline_of(_spec(LOOPS[name][0]), LOOPS[name][1]).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def _plain(name: str) -> Ran:
    return _generate(name, _make(name))


def _check(plain: Ran, pipe: Any, strategy: str, parameters: dict[str, Any], run: Any) -> None:
    """Off, every bit is the plain one; on, it skips what it is to skip, twice the same."""
    patch = autocache.patch(pipe, strategy, **parameters)
    patch.enabled = False
    off = run()
    assert torch.equal(off.output, plain.output)
    assert off.counts == plain.counts
    patch.enabled = True
    cached, again = run(), run()
    assert torch.equal(cached.output, again.output)
    if strategy == "invariant":
        assert torch.equal(cached.output, plain.output)
    else:
        kind = skipping(strategy)
        assert 0 < cached.counts[kind] < plain.counts[kind]
        assert not torch.equal(cached.output, plain.output)
    patch.unpatch()
    assert torch.equal(run().output, plain.output)


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_pipelines_that_leave_layers_out(name: str, strategy: str) -> None:
    """Under skip-layer guidance and under perturbed attention, whose third prediction comes in a
    call of its own or in the batch."""
    pipe = _make(name)
    _check(_plain(name), pipe, strategy, _parameters(name, strategy), lambda: _generate(name, pipe))


def test_guidance_does_something() -> None:
    """Without the layers left out the output is another."""
    spec, label, options = LOOPS["sd3 skip layers"]
    pipe = _make("sd3 skip layers")
    given = {"num_inference_steps": STEPS, **options, "skip_guidance_layers": None}
    without = run_loop(_spec(spec), label, pipe, **given)[0]
    assert not torch.equal(without, _plain("sd3 skip layers").output)


@pytest.mark.parametrize("strategy", ["dit_block", "fbcache", "auto"])
def test_the_prediction_without_layers_has_a_cache_of_its_own(strategy: str) -> None:
    """It is there in some steps only: its first one is computed, whatever the other branch does."""
    pipe = _make("sd3 skip layers")
    patch = autocache.patch(pipe, strategy, **IN_STACKS[strategy])
    _generate("sd3 skip layers", pipe)
    steps = patch.stats().steps
    own = [step for step in steps if step.branch == "1"]
    assert 0 < len(own) < STEPS
    assert own[0].step > 0
    assert own[0].blocks_skipped == 0
    assert len([step for step in steps if step.branch == "0"]) == STEPS


WHOLE = {"skip_attention": True, "skip_ff": True}
ALWAYS: Any = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
GUIDERS: dict[str, Any] = {
    "layers": lambda: SkipLayerGuidance(
        3.0, skip_layer_config=LayerSkipConfig([1], "blocks", **WHOLE), **ALWAYS
    ),
    "layers for a while": lambda: SkipLayerGuidance(
        3.0,
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.7,
        skip_layer_config=LayerSkipConfig([1], "blocks", **WHOLE),
    ),
    "feed-forward": lambda: SkipLayerGuidance(
        3.0,
        skip_layer_config=LayerSkipConfig([1], "blocks", skip_attention=False, skip_ff=True),
        **ALWAYS,
    ),
    "smoothed energy": lambda: SmoothedEnergyGuidance(
        3.0,
        seg_guidance_start=0.0,
        seg_guidance_stop=1.0,
        seg_guidance_config=SmoothedEnergyGuidanceConfig([1], "blocks"),
    ),
}
"""They put hooks on the blocks before a call, and take them off after it."""


def _wan(guider: str) -> Any:
    pipe = WanCoreDenoiseStep().init_pipeline()
    pipe.update_components(
        transformer=tiny.build("WanTransformer3DModel")[0],
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        guider=GUIDERS[guider](),
    )
    return pipe


def _guided(pipe: Any) -> Ran:
    random = torch.Generator().manual_seed(0)
    texts = [torch.randn(1, 12, 16, generator=random).to(DEVICE) for _ in range(2)]
    given = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1]}
    latents = torch.randn(1, 4, 2, 8, 8, generator=random).to(DEVICE)
    sizes = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": STEPS}
    return Ran(pipe, lambda: pipe(**given, **sizes, latents=latents, output="latents"))


@functools.cache
def _unpatched(guider: str) -> Ran:
    return _guided(_wan(guider))


@pytest.mark.parametrize("strategy", IN_STACKS)
@pytest.mark.parametrize("guider", GUIDERS)
def test_guiders_of_modular_pipelines(guider: str, strategy: str) -> None:
    """What a guider leaves out, in the calls that it leaves it out of, is as without a cache; and
    nothing of its hooks stays behind."""
    pipe = _wan(guider)
    _check(_unpatched(guider), pipe, strategy, IN_STACKS[strategy], lambda: _guided(pipe))
    plain = _wan(guider)
    _guided(plain)
    kept = [sorted(vars(module)) for module in pipe.transformer.modules()]
    assert kept == [sorted(vars(module)) for module in plain.transformer.modules()]


def test_guiders_do_something() -> None:
    """No two of them give the same output."""
    outputs = [_unpatched(guider).output for guider in GUIDERS]
    pairs = [(a, b) for a in range(len(outputs)) for b in range(a)]
    assert not any(torch.equal(outputs[a], outputs[b]) for a, b in pairs)
