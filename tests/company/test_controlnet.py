"""ControlNets on Flux, Stable Diffusion 3 and UNets: run at every step, their residuals once."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from company.adapted import skipping, watched
from diffusers.models.controlnets import MultiControlNetModel
from diffusers.models.controlnets.controlnet_flux import FluxMultiControlNetModel
from diffusers.models.controlnets.controlnet_sd3 import SD3MultiControlNetModel
from pipelines.replay import replayed
from pipelines.tiny_pipelines import denoisers
from torch import nn

import autocache
from autocache.authoring.instance import pipeline_of, run_loop
from autocache.spec.loader import load
from autocache.spec.schema import Spec
from devices import DEVICE

STEPS = 6
FILES = Path(__file__).parents[2] / "model_specs"
SPECS = {
    "flux": ("FluxTransformer2DModel", "FluxControlNetPipeline"),
    "sd3": ("SD3Transformer2DModel", "StableDiffusion3ControlNetPipeline"),
    "sd": ("UNet2DConditionModel", "StableDiffusionControlNetPipeline"),
}
MANY: dict[str, Any] = {
    "flux": FluxMultiControlNetModel,
    "sd3": SD3MultiControlNetModel,
    "sd": MultiControlNetModel,
}
IN_STACKS: dict[str, dict[str, Any]] = {
    "dit_block": {"step_start": 0, "step_interval": 2},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 0.9},
    "fbcache": {"threshold": 0.9},
    "attention": {"step_start": 0, "step_interval": 2},
    "auto": {"speedup": 3.0},
    "invariant": {},
}
STRATEGIES: dict[str, dict[str, dict[str, Any]]] = {
    "flux": IN_STACKS,
    "sd3": IN_STACKS,
    "sd": {
        "deepcache": {"interval": 3},
        "attention": {"step_start": 0, "step_interval": 2},
        "auto": {"speedup": 3.0},
        "invariant": {},
    },
}
PAIRS = [(name, strategy) for name, known in STRATEGIES.items() for strategy in known]
WAYS = ("one", "two", "until the middle")


@functools.cache
def _spec(name: str) -> Spec:
    return load(FILES / f"{SPECS[name][0]}.yaml")


def _filled(model: nn.Module, seed: int) -> nn.Module:
    """With weights in what a ControlNet begins at zero with, so that it does something."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                drawn = torch.randn(parameter.shape, generator=random) * 0.2
                parameter.copy_(drawn)
    return model


def _make(name: str, way: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline, and what to call it with."""
    spec, label = _spec(name), SPECS[name][1]
    pipe = pipeline_of(spec, label)
    _filled(pipe.controlnet, 1)
    given: dict[str, Any] = {"num_inference_steps": STEPS}
    if way == "two":
        other = _filled(copy.deepcopy(pipe.controlnet), 2)
        pipe.controlnet = MANY[name]([pipe.controlnet, other])
        image = torch.rand(1, 3, *((64, 64) if name == "sd" else (8, 8)))
        given["image" if name == "sd" else "control_image"] = [image, 1 - image]
        given["controlnet_conditioning_scale"] = [0.5, 1.0]
    elif way == "until the middle":
        given["control_guidance_end"] = 0.5
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DEVICE), given


@contextlib.contextmanager
def _control(pipe: Any) -> Iterator[Counter[int]]:
    """Calls of each ControlNet."""
    counts: Counter[int] = Counter()
    nets = getattr(pipe.controlnet, "nets", [pipe.controlnet])
    handles = [
        net.register_forward_hook(lambda *_, number=number: counts.update([number]))
        for number, net in enumerate(nets)
    ]
    yield counts
    for handle in handles:
        handle.remove()


def _run(name: str, pipe: Any, given: dict[str, Any]) -> tuple[torch.Tensor, Counter, Counter]:
    torch.manual_seed(0)
    with watched(pipe) as ran, _control(pipe) as control, torch.no_grad():
        output = run_loop(_spec(name), SPECS[name][1], pipe, **given)[0]
    return output, Counter(ran), Counter(control)


@functools.cache
def _plain(name: str, way: str) -> tuple[torch.Tensor, Counter, Counter]:
    torch.manual_seed(3)
    return _run(name, *_make(name, way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_blocks_are_skipped_and_control_is_not(name: str, strategy: str, way: str) -> None:
    """The denoiser alone is cached, and each ControlNet runs as often as ever; with caching off
    every bit is that of a pipeline that was never patched."""
    plain, ran, control = _plain(name, way)
    torch.manual_seed(3)
    pipe, given = _make(name, way)
    patch = autocache.patch(pipe, strategy, **STRATEGIES[name][strategy])
    assert patch.denoisers == denoisers(pipe)
    assert not any("_autocache_site" in vars(module) for module in pipe.controlnet.modules())
    patch.enabled = False
    output, again, _ = _run(name, pipe, given)
    assert torch.equal(output, plain)
    assert again == ran
    patch.enabled = True
    for _ in range(2):
        cached, less, still = _run(name, pipe, given)
        assert still == control
        assert set(control.values()) == {STEPS}
        if strategy == "invariant":
            assert torch.equal(cached, plain)
        else:
            kind = skipping(strategy)
            assert 0 < less[kind] < ran[kind]
            assert not torch.equal(cached, plain)
    stats = patch.stats()
    if name != "sd":  # whose record counts layers, with and without such blocks in them
        assert stats.blocks.total - stats.blocks.run == 2 * (ran["block"] - less["block"])


def test_control_does_something() -> None:
    """One net, two, and one that ends in mid-run give different outputs."""
    for name in SPECS:
        outputs = [_plain(name, way)[0] for way in WAYS]
        assert not any(torch.equal(outputs[a], outputs[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_residuals_count_once(name: str, way: str) -> None:
    """In a skipped step the blocks are what went into them plus all that came to it up to the last
    one in the last computed step, the residuals of the ControlNets included, and what is added to
    the other blocks is of this step: every call is made once more on a plain model."""
    spec, label = _spec(name), SPECS[name][1]
    torch.manual_seed(3)
    pipe, given = _make(name, way)
    plain = copy.deepcopy(pipe.transformer)

    def run() -> None:
        run_loop(spec, label, pipe, **given)

    records = replayed(spec, pipe, plain, run)
    first = [record.blocks_skipped > 0 for record in records if record.branch == "0"]
    assert first == [False, True] * 3


def test_a_control_net_made_from_a_patched_model() -> None:
    """`from_unet` and `from_transformer` copy the weights, and nothing of the patch."""
    made = {}
    for patched in (False, True):
        unet = _make("sd", "one")[0].unet
        flux = _make("flux", "one")[0].transformer
        if patched:
            autocache.patch(unet, "deepcache")
            autocache.patch(flux, "dit_block")
        torch.manual_seed(0)
        nets = [
            diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3),
            diffusers.FluxControlNetModel.from_transformer(
                flux, 1, 1, attention_head_dim=16, num_attention_heads=2
            ),
        ]
        made[patched] = nets
    for plain, from_patched in zip(made[False], made[True], strict=True):
        assert [type(m) for m in plain.modules()] == [type(m) for m in from_patched.modules()]
        weights = from_patched.state_dict()
        assert list(weights) == list(plain.state_dict())
        assert all(torch.equal(weights[key], value) for key, value in plain.state_dict().items())
