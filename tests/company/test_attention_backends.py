"""Other ways to compute the same: fused projections, backends, processors, slices, layouts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from company.adapted import (
    PAIRS,
    STRATEGIES,
    Generation,
    Life,
    check_life,
    check_midway,
    generate,
    make,
    uncached,
)
from diffusers.models.attention_dispatch import AttentionBackendName as Backend
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, attention_backend
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from pipelines.tiny_pipelines import denoisers, run

import autocache
from devices import DEVICE


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    """The backend that diffusers makes the one for everyone is put back."""
    before, _ = _AttentionBackendRegistry.get_active_backend()
    yield
    _AttentionBackendRegistry.set_active_backend(before)


class Louder(FluxAttnProcessor):
    """Changes what attention gives, as processors that edit pictures do."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().__call__(*args, **kwargs)
        if isinstance(outputs, torch.Tensor):  # of a single block
            return outputs * 1.5
        return tuple(output * 1.5 for output in outputs)


class LouderInWan(WanAttnProcessor):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * 1.5


class LouderInUNet(AttnProcessor):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * 1.5


LOUDER = {"flux": Louder, "wan": LouderInWan, "sd": LouderInUNet}
USUAL = {"flux": FluxAttnProcessor, "wan": WanAttnProcessor, "sd": AttnProcessor2_0}


def _processors(pipe: Any, processor: Any) -> None:
    denoisers(pipe)[0].set_attn_processor(processor)  # type: ignore[operator]


def _model(pipe: Any) -> Any:
    return denoisers(pipe)[0]


def _last(pipe: Any) -> Any:
    return torch.channels_last_3d if type(pipe).__name__.startswith("Wan") else torch.channels_last


def _life(name: str) -> Life:
    life: dict[str, Any] = {
        "nothing": lambda pipe: None,
        "fuse": lambda pipe: _model(pipe).fuse_qkv_projections(),
        "unfuse": lambda pipe: _model(pipe).unfuse_qkv_projections(),
        "math": lambda pipe: _model(pipe).set_attention_backend("_native_math"),
        "native": lambda pipe: _model(pipe).set_attention_backend("native"),
        "louder": lambda pipe: _processors(pipe, LOUDER[name]()),
        "usual": lambda pipe: _processors(pipe, USUAL[name]()),
    }
    if name == "sd":
        life |= {
            "sliced": lambda pipe: pipe.enable_attention_slicing("max"),
            "whole": lambda pipe: pipe.disable_attention_slicing(),
        }
    if name != "flux":
        life["channels last"] = lambda pipe: _model(pipe).to(memory_format=_last(pipe))
    return life


@functools.cache
def _plain(name: str) -> list[Generation]:
    return uncached(name, _life(name))


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_changes_between_generations(name: str, strategy: str) -> None:
    """Under one patch each generation is the very one of a patch made after the change, and with
    caching off the one of a pipeline that was never cached."""
    off = ("fuse", "unfuse", "math", "louder", "channels last")
    check_life(name, strategy, _life(name), _plain(name), off=off)


@pytest.mark.parametrize("midway", ["fuse", "unfuse", "louder"])
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_changes_in_mid_generation(name: str, strategy: str, midway: str) -> None:
    """Other projections or processors from a callback: the step after is computed."""
    life = _life(name)
    before = life["fuse"] if midway == "unfuse" else life["nothing"]
    check_midway(name, strategy, life[midway], before)


@pytest.mark.parametrize("name", ["wan", "sd"])
def test_what_is_invariant_is_run_once_where_it_is_fused(name: str) -> None:
    """Keys and values in one module are as invariant as in two, fused before the patch or after."""
    pipe = make(name)
    patch = autocache.patch(pipe, "invariant")
    run(pipe)
    apart = _reused(patch, "to_kv"), _reused(patch, "to_k")
    assert apart[0] == 0 < apart[1]
    _model(pipe).fuse_qkv_projections()
    patch.reset()
    run(pipe)
    assert (_reused(patch, "to_kv"), _reused(patch, "to_k")) == apart[::-1]
    again = autocache.patch(pipe, "invariant")
    run(pipe)
    assert _reused(again, "to_kv") == apart[1]


def _reused(patch: autocache.Patch, ending: str) -> int:
    steps = patch.stats().steps
    return sum(
        done == "reused"
        for step in steps
        for site, done in step.sites.items()
        if site.endswith(ending)
    )


@pytest.mark.parametrize("backend", ["_native_math", "native"])
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_a_backend_for_one_generation(name: str, strategy: str, backend: str) -> None:
    """Within diffusers' context manager, and outside again."""
    pipe, twin = make(name), make(name)
    autocache.patch(pipe, strategy, **_parameters(name, strategy))
    with attention_backend(backend):
        inside = generate(pipe)
        with autocache.patch(twin, strategy, **_parameters(name, strategy)):
            assert generate(twin) == inside
        assert _AttentionBackendRegistry.get_active_backend()[0] == Backend(backend)
    outside = generate(pipe)
    assert outside.ran == inside.ran
    torch.testing.assert_close(outside.output, inside.output, rtol=1e-2, atol=1e-3)


def _parameters(name: str, strategy: str) -> dict[str, Any]:
    return STRATEGIES[name][strategy]


@pytest.mark.parametrize("strategy", ["deepcache", "auto"])
def test_the_autoencoder_is_left_alone(strategy: str) -> None:
    """Sliced and tiled decoding, set before the patch and under it: the same pictures."""
    prompts = torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    pictures = []
    for patched_first in (True, False):
        pipe = make("sd")
        if patched_first:
            autocache.patch(pipe, strategy)
        pipe.vae.enable_slicing()
        pipe.vae.enable_tiling()
        if not patched_first:
            autocache.patch(pipe, strategy)
        given = {"prompt_embeds": prompts[0], "negative_prompt_embeds": prompts[1]}
        noise = torch.Generator().manual_seed(2)
        called: Any = {"num_inference_steps": 4, "output_type": "pt", "generator": noise}
        with torch.no_grad():
            pictures.append(pipe(**given, **called, height=8, width=8).images)
        assert not any("_autocache_site" in vars(module) for module in pipe.vae.modules())
    assert torch.equal(*pictures)
