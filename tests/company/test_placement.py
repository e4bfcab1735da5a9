"""Where a model is, and how precisely: spread over devices, moved, cast, not loaded yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from accelerate import dispatch_model, init_empty_weights
from accelerate.hooks import remove_hook_from_submodules
from company.placing import PLACEMENTS, accelerator, blocks, runs
from pipelines import tiny_pipelines
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import emulated
import tiny
from autocache import demo
from autocache.how import Reuse
from autocache.when import Interval
from autocache.where import Denoiser

FLUX, WAN, UNET = "FluxTransformer2DModel", "WanTransformer3DModel", "UNet2DConditionModel"
TIMES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
EVERY_OTHER = {"step_start": 0, "step_interval": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "teacache": {"coefficients": (1.0, 0.0)},
    "dit_block": EVERY_OTHER,
    "fbcache": {"threshold": 0.5},
    "dicache": {"threshold": 10.0, "warmup_steps": 2},
    "attention": EVERY_OTHER,
    "taylorseer": {},
    "whole calls": {"when": Interval(2), "where": Denoiser(), "how": Reuse()},
}


def _patched(target: Any, strategy: str) -> autocache.Patch:
    named = () if "when" in STRATEGIES[strategy] else (strategy,)
    return autocache.patch(target, *named, **STRATEGIES[strategy])


@pytest.fixture(autouse=True)
def _on_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    device = accelerator()
    monkeypatch.setattr(tiny_pipelines, "DEVICE", device)
    if device == emulated.device():
        # Pinning is for a driver, and there is none.
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)


def _needs_two_devices() -> torch.device:
    module = torch.get_device_module(accelerator())
    if module.device_count() < 2:
        pytest.skip(f"a model is spread over two devices, and there is one {accelerator().type}")
    return accelerator(1)


class Loop:
    """Denoiser calls one after the other, on inputs that are placed as told."""

    def __init__(self, name: str, given: Callable[[float], dict[str, Any]]) -> None:
        self.scale = 1.0 if name == FLUX else 1000.0
        self.given = given

    def __call__(
        self,
        model: nn.Module,
        times: tuple[float, ...] = TIMES,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        device = accelerator() if device is None else device
        with torch.no_grad():
            results = [model(**self._placed(time, device, dtype))[0] for time in times]
        return torch.stack(results).cpu()

    def _placed(self, time: float, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        return {
            key: value.to(device, dtype if value.is_floating_point() else None)
            if isinstance(value, torch.Tensor)
            else value
            for key, value in self.given(time * self.scale).items()
        }


def _built(name: str) -> tuple[nn.Module, Loop]:
    """A tiny denoiser on the accelerator."""
    model, given = tiny.build(name)
    return model.to(accelerator()), Loop(name, given)


def _spread(model: nn.Module) -> None:
    """Every other block and what follows the blocks on another device than what goes in."""
    first, second = accelerator(), _needs_two_devices()
    places: dict[str, Any] = {name: first for name, _ in model.named_parameters(recurse=False)}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            places |= {f"{name}.{i}": (second, first)[i % 2] for i in range(len(child))}
        else:
            places[name] = second if name in ("norm_out", "proj_out") else first
    dispatch_model(model, places, main_device=first, force_hooks=True)


@pytest.mark.parametrize("first", ["patch", "placement"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_blocks_on_two_devices(name: str, strategy: str, first: str) -> None:
    """A device map over two devices, with what is skipped on both, changes no result and no skip;
    the hooks and the patch come off in either order."""
    model, loop = _built(name)
    plain = loop(model)
    patch = _patched(model, strategy)
    expected, actions = loop(model), [step.action for step in patch.stats().steps]
    model, loop = _built(name)
    if first == "placement":
        _spread(model)
    patch = _patched(model, strategy)
    if first == "patch":
        _spread(model)
    assert len({weight.device for weight in model.parameters()}) == 2
    for _ in range(3):
        assert torch.equal(loop(model), expected)
    assert [step.action for step in patch.stats().steps] == actions * 3
    assert set(actions) != {"computed"}
    if first == "placement":
        patch.unpatch()
        assert torch.equal(loop(model), plain)
        assert len({weight.device for weight in model.parameters()}) == 2
    else:
        remove_hook_from_submodules(model)
        assert torch.equal(loop(model.to(accelerator())), expected)
    assert autocache.is_patched(model) is (first == "patch")


def test_a_pipeline_with_a_device_map() -> None:
    """`device_map` of a pipeline, to one device at least, leaves what is skipped as it is."""
    given = {"prompt_embeds": None, "height": 64, "width": 64}
    pictures = []
    for options in ({}, {"device_map": "cpu"}):
        pipe = diffusers.FluxPipeline.from_pretrained(demo.path("shapes"), **options)
        patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2)
        pictures.append(_draw(pipe, {k: v for k, v in given.items() if v}))
        assert patch.stats().blocks.share < 1
    assert torch.equal(*pictures)


def _draw(pipe: Any, given: dict[str, Any], steps: int = 6) -> torch.Tensor:
    """A picture or a clip of a real prompt, decoded."""
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "a small solid red circle",
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **given,
    )
    return (made.frames if hasattr(made, "frames") else made.images).cpu()


BUNDLED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "shapes": ("FluxPipeline", {"height": 64, "width": 64}, "dit_block", EVERY_OTHER),
    "shapes_wan": (
        "WanPipeline",
        {"height": 32, "width": 32, "num_frames": 9},
        "teacache",
        {"coefficients": (1.0, 0.0), "threshold": 2.0},
    ),
    "shapes_sd": ("StableDiffusionPipeline", {"height": 64, "width": 64}, "deepcache", {}),
}


@pytest.mark.parametrize("bundled", BUNDLED)
def test_trained_pipelines_with_all_their_parts(bundled: str, tmp_path: Path) -> None:
    """With text encoder and autoencoder beside the denoiser, which take turns on the accelerator,
    what comes out of a patched pipeline is what comes out of it without offloading."""
    name, given, strategy, parameters = BUNDLED[bundled]
    pipe = getattr(diffusers, name).from_pretrained(demo.path(bundled)).to(accelerator())
    patch = autocache.patch(pipe, strategy, **parameters)
    expected = _draw(pipe, given)
    actions = [step.action for step in patch.stats().steps]
    assert set(actions) != {"computed"}
    PLACEMENTS["model"](pipe, tmp_path)
    for _ in range(2):
        assert torch.equal(_draw(pipe, given), expected)
        assert {weight.device.type for weight in patch.denoisers[0].parameters()} == {"cpu"}
    pipe.remove_all_hooks()
    PLACEMENTS["leaves"](pipe, tmp_path)
    assert torch.equal(_draw(pipe, given), expected)
    assert [step.action for step in patch.stats().steps] == actions * 4


PLACES = [
    (None, torch.float32),
    (torch.device("cpu"), torch.bfloat16),
    (None, torch.bfloat16),
    (None, torch.float32),
]
"""None is the accelerator."""


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "attention", "whole calls"])
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_moved_between_generations(name: str, strategy: str) -> None:
    """To another device, to another precision and back: each generation is that of a model which
    was there from the start."""
    model, loop = _built(name)
    patch = _patched(model, strategy)
    weights = tiny.build(name)[0].state_dict()
    for nth in range(len(PLACES)):
        fresh, _ = _built(name)
        for place, dtype in PLACES[: nth + 1]:
            device = place or accelerator()
            fresh.to(device, dtype)
        # What the weights lost in a lower precision comes back; their buffers go the same way.
        model.to(device, dtype).load_state_dict(weights)
        fresh.load_state_dict(weights)
        other = _patched(fresh, strategy)
        assert torch.equal(loop(model, TIMES, device, dtype), loop(fresh, TIMES, device, dtype))
        done = [step.action for step in patch.stats().steps if step.generation == nth]
        assert done == [step.action for step in other.stats().steps]
        assert set(done) != {"computed"}


def _to_the_host(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    model.to("cpu")
    return torch.device("cpu"), torch.float32


def _to_half(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    model.to(torch.bfloat16)
    return accelerator(), torch.bfloat16


def _by_hooks(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The inputs stay where they are: the model's own hooks bring them along."""
    dispatch_model(model, {"": _needs_two_devices()}, force_hooks=True)
    return accelerator(), torch.float32


ANYWHERE = [
    (name, strategy, move)
    for name, strategy in tiny.pairs(s.name for s in autocache.strategies())
    for move in {FLUX: (_to_half, _by_hooks), UNET: (_to_the_host, _by_hooks)}.get(name, ())
    if strategy not in ("magcache", "fewer_steps")
]
"""All that is cached in a model by itself."""


@pytest.mark.parametrize(("name", "strategy", "move"), ANYWHERE)
def test_moved_in_mid_generation(
    name: str, strategy: str, move: Callable[[nn.Module], tuple[torch.device, torch.dtype]]
) -> None:
    """Nothing that was cached before a move is served after it: the step after is computed as an
    unpatched model computes it, and the rest skips again."""
    model, loop = _built(name)
    patch = autocache.patch(model, tiny.choice(strategy))
    before = loop(model, TIMES[:3])
    assert torch.isfinite(before).all()
    device, dtype = move(model)
    plain, _ = _built(name)
    move(plain)
    after = loop(model, TIMES[3:], device, dtype)
    assert torch.equal(after[0], loop(plain, TIMES[3:4], device, dtype)[0])
    assert torch.isfinite(after).all()
    assert len(patch.stats().steps) == len(TIMES)
    patch.unpatch()
    assert torch.equal(loop(model, TIMES, device, dtype), loop(plain, TIMES, device, dtype))


@pytest.mark.parametrize("first", ["patch", "casting"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_layerwise_casting(name: str, strategy: str, first: str) -> None:
    """Weights that are stored in 8 bits and computed with in 32, layer by layer: the result of a
    model whose weights have lost those bits for good, and the same skips."""
    cast = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    model, loop = _built(name)
    model.to("cpu")
    enable: Any = model.enable_layerwise_casting
    rounded, _ = _built(name)
    rounded.to("cpu")
    if first == "casting":
        enable(**cast)
    patch = _patched(model, strategy)
    if first == "patch":
        enable(**cast)
    stored = [weight.dtype for weight in model.parameters()]
    assert torch.float8_e4m3fn in stored
    rounded.load_state_dict({key: value.float() for key, value in model.state_dict().items()})
    twin = _patched(rounded, strategy)
    host = torch.device("cpu")
    for _ in range(3):
        assert torch.equal(loop(model, device=host), loop(rounded, device=host))
    actions = [step.action for step in patch.stats().steps]
    assert actions == [step.action for step in twin.stats().steps]
    assert set(actions) != {"computed"}
    assert [weight.dtype for weight in model.parameters()] == stored
    patch.unpatch()
    twin.unpatch()
    assert torch.equal(loop(model, device=host), loop(rounded, device=host))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_patched_before_its_weights_are_there(name: str, strategy: str) -> None:
    """A model on the meta device can be patched, and its weights loaded under the patch."""
    loaded, loop = _built(name)
    twin, _ = _built(name)
    reference = _patched(twin, strategy)
    expected = loop(twin)
    with init_empty_weights(include_buffers=False):
        cls: Any = type(loaded)
        model = cls.from_config(loaded.config).eval().requires_grad_(False)
    patch = _patched(model, strategy)
    assert all(weight.is_meta for weight in model.parameters())
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.to(accelerator())
    for _ in range(2):
        assert torch.equal(loop(model), expected)
    actions = [step.action for step in reference.stats().steps]
    assert [step.action for step in patch.stats().steps] == actions * 2
    assert set(actions) != {"computed"}


def test_two_experts_take_turns_on_the_accelerator(tmp_path: Path) -> None:
    """Offloaded as wholes, the expert that is not running is off the accelerator, also where most
    of the other one's blocks are skipped."""
    pipe = make("wan")
    with autocache.patch(pipe, "teacache", coefficients=(1.0, 0.0)):
        expected = run(pipe)
    PLACEMENTS["model"](pipe, tmp_path)
    patch = autocache.patch(pipe, "teacache", coefficients=(1.0, 0.0))
    places: list[tuple[str, str]] = []

    def look(*_: Any) -> None:
        experts = (pipe.transformer, pipe.transformer_2)
        places.append(tuple(next(expert.parameters()).device.type for expert in experts))

    for expert in (pipe.transformer, pipe.transformer_2):
        expert.register_forward_hook(look)
    with runs(pipe.transformer) as noisy, runs(pipe.transformer_2) as clean:
        assert torch.equal(run(pipe), expected)
    total = sum(len(blocks(m)) for m in (pipe.transformer, pipe.transformer_2))
    assert noisy.total() + clean.total() == patch.stats().blocks.run < 8 * total
    on = accelerator().type
    assert set(places) == {(on, "cpu"), ("cpu", on)}
