"""What users put on UNets: FreeU, IP-Adapters and T2I-Adapters."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import pytest
import torch
from company.adapted import (
    STRATEGIES,
    Generation,
    Life,
    check_life,
    check_midway,
    generate,
    make,
    uncached,
)
from pipelines.tiny_pipelines import run

import autocache
from devices import DEVICE

KNOWN = tuple(STRATEGIES["sd"])
TOKENS, WIDTH = 4, 8


def _ip_adapter(pipe: Any, seed: int = 1) -> dict[str, Any]:
    """Weights as `load_ip_adapter` takes them: a projection of the image, keys and values of it."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    attention: dict[str, torch.Tensor] = {}
    for number, name in enumerate(pipe.unet.attn_processors):
        if "attn2" in name:
            module = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k_ip", "to_v_ip"):
                attention[f"{number}.{part}.weight"] = drawn(module.inner_dim, 8)
    projection = {"proj.weight": drawn(TOKENS * 8, WIDTH), "proj.bias": drawn(TOKENS * 8)}
    projection |= {"norm.weight": torch.ones(8), "norm.bias": torch.zeros(8)}
    return {"image_proj": projection, "ip_adapter": attention}


def _load(pipe: Any, seed: int = 1) -> None:
    weights = _ip_adapter(pipe, seed)
    pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)


def _given(pipe: Any) -> dict[str, Any]:
    """An image beside the prompt, and none beside the negative one, where there is an adapter."""
    if pipe.unet.encoder_hid_proj is None:
        return {"guided": True}
    image = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    return {"guided": True, "ip_adapter_image_embeds": [torch.cat([image * 0, image])]}


def _freeu(pipe: Any) -> None:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)


LIFE: Life = {
    "nothing": lambda pipe: None,
    "freeu": _freeu,
    "freeu off": lambda pipe: pipe.disable_freeu(),
    "adapter": _load,
    "scale": lambda pipe: pipe.set_ip_adapter_scale(0.3),
    "another": lambda pipe: _load(pipe, 2),
    "both": _freeu,
    "unload": lambda pipe: pipe.unload_ip_adapter(),
}


@functools.cache
def _plain() -> dict[str, Generation]:
    return dict(zip(LIFE, uncached("sd", LIFE, given=_given), strict=True))


@pytest.mark.parametrize("strategy", KNOWN)
def test_changes_between_generations(strategy: str) -> None:
    """Under one patch each generation is the very one of a patch made after the change, and with
    caching off the one of a pipeline that was never cached."""
    check_life("sd", strategy, LIFE, list(_plain().values()), off=LIFE, given=_given)


def test_they_do_something() -> None:
    """FreeU, an adapter, its scale and another adapter all change the output."""
    outputs = {label: generation.output for label, generation in _plain().items()}
    assert torch.equal(outputs["nothing"], outputs["freeu off"])
    labels = ["nothing", "freeu", "adapter", "scale", "another", "both"]
    pairs = [(a, b) for a in labels for b in labels if a < b]
    assert [pair for pair in pairs if torch.equal(outputs[pair[0]], outputs[pair[1]])] == []


MIDWAY = {
    "freeu": ("nothing", "freeu"),
    "freeu off": ("freeu", "freeu off"),
    "scale": ("adapter", "scale"),
    "unload": ("adapter", "unload"),
}


@pytest.mark.parametrize("midway", MIDWAY)
@pytest.mark.parametrize("strategy", KNOWN)
def test_changes_in_mid_generation(strategy: str, midway: str) -> None:
    """From a callback: the step after is computed, whoever is told, the model or its pipeline."""
    before, change = MIDWAY[midway]
    check_midway("sd", strategy, LIFE[change], LIFE[before], given=_given)


def test_the_image_is_projected_once() -> None:
    """An adapter loaded under the patch: its projection is as invariant as the text's keys, once it
    is out of the training mode that diffusers leaves it in."""
    pipe = make("sd")
    patch = autocache.patch(pipe, "invariant")
    _load(pipe)
    pipe.unet.eval()
    ran = []
    pipe.unet.encoder_hid_proj.register_forward_hook(lambda *_: ran.append(1))
    run(pipe, **_given(pipe))
    done = [step.sites["encoder_hid_proj"] for step in patch.stats().steps]
    assert done.count("computed") == len(ran) < len(done)


@pytest.mark.parametrize("strategy", KNOWN)
def test_another_image(strategy: str) -> None:
    """Embeddings of another image written into the same tensor: another generation."""
    pipe, twin = make("sd"), make("sd")
    autocache.patch(pipe, strategy, **STRATEGIES["sd"][strategy])
    for one in (pipe, twin):
        _load(one)
    given = _given(pipe)
    outputs = []
    for factor in (1.0, -2.0, 1.0):
        with torch.no_grad():
            given["ip_adapter_image_embeds"][0].mul_(factor)
        outputs.append(generate(pipe, **given))
        with autocache.patch(twin, strategy, **STRATEGIES["sd"][strategy]):
            assert generate(twin, **given) == outputs[-1]
    assert not torch.equal(outputs[0].output, outputs[1].output)
    assert outputs[1] == outputs[2]


def _adapted(name: str) -> Any:
    """A T2I-Adapter, which adds features of a picture inside the down path."""
    pipe = make(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        adapter = diffusers.T2IAdapter(
            in_channels=3, channels=[8, 12], num_res_blocks=1, downscale_factor=1
        )
    parts = {key: value for key, value in pipe.components.items() if key != "image_encoder"}
    made = diffusers.StableDiffusionAdapterPipeline(
        **parts, adapter=adapter.eval().requires_grad_(False), requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made.to(DEVICE)


def _run_adapted(pipe: Any, factor: float = 1.0) -> tuple[torch.Tensor, int]:
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(7)) * factor
    called: list[int] = []
    handle = pipe.adapter.register_forward_hook(lambda *_: called.append(1))
    output = run(pipe, steps=6, guided=True, image=picture.to(DEVICE))
    handle.remove()
    return output, len(called)


@pytest.mark.parametrize("strategy", KNOWN)
def test_a_t2i_adapter(strategy: str) -> None:
    """The adapter runs once per generation, and what it adds is what a fresh patch adds too; with
    caching off nothing changes."""
    plain = [_run_adapted(_adapted("sd"), factor) for factor in (1.0, 0.2)]
    assert not torch.equal(plain[0][0], plain[1][0])
    pipe = _adapted("sd")
    patch = autocache.patch(pipe, strategy, **STRATEGIES["sd"][strategy])
    for factor, (expected, calls) in zip((1.0, 0.2), plain, strict=True):
        cached, called = _run_adapted(pipe, factor)
        assert called == calls == 1
        assert torch.equal(cached, expected) is (strategy == "invariant")
        fresh = _adapted("sd")
        autocache.patch(fresh, strategy, **STRATEGIES["sd"][strategy])
        assert torch.equal(_run_adapted(fresh, factor)[0], cached)
    patch.enabled = False
    assert torch.equal(_run_adapted(pipe)[0], plain[0][0])
