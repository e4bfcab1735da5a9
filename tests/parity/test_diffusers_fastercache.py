"""FasterCache as diffusers implements it, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FasterCacheConfig
from diffusers.hooks import faster_cache

import autocache
from autocache.how.frequency import Frequency, disc
from tiny import build

STEPS = 14
TIMES = [980 - 70 * step for step in range(STEPS)]
# diffusers keeps two complex spectra in float32 and sums the spectra of both branches; the
# difference is kept here and its real transform weighed, which rounds in another order: a few units
# in the last place of float32, for outputs of up to 3.
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 3e-6}
GUIDED: dict[str, Any] = {"guidance": "batched", "feed_back": True}


def latents(shape: torch.Size) -> list[torch.Tensor]:
    """A latent that moves smoothly from step to step."""
    generator = torch.Generator().manual_seed(3)
    start, end = (torch.randn(shape, generator=generator) for _ in range(2))
    return [torch.lerp(start, end, step / STEPS) for step in range(STEPS)]


@torch.no_grad()
def run(model: Any, inputs: Any, scale: float = 1.0, clock: list | None = None) -> list:
    """The prediction of each step, and the batch size that the last block was run with."""
    sizes: list[int] = []
    outputs = []
    blocks = getattr(model, "single_transformer_blocks", None) or model.transformer_blocks
    handle = blocks[-1].register_forward_hook(
        lambda _, __, out: sizes.append(len(out if isinstance(out, torch.Tensor) else out[0]))
    )
    for time, latent in zip(TIMES, latents(inputs(1)["hidden_states"].shape), strict=True):
        if clock is not None:
            clock[0] = time
        outputs.append(model(**(inputs(time * scale) | {"hidden_states": latent}))[0].clone())
    handle.remove()
    return [*zip(outputs, sizes, strict=True)]


def attended(model: Any) -> list[int]:
    """Counts the calls of the last attention that are computed."""
    calls: list[int] = []
    last = [m for n, m in model.named_modules() if n.endswith((".to_q",))][-1]
    last.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    return calls


def theirs(name: str, scale: float = 1.0, extra: tuple[str, ...] = (), **config: Any) -> Any:
    model, inputs = build(name)
    clock = [0]
    counted = attended(model)
    identifiers = [*faster_cache._UNCOND_COND_INPUT_KWARGS_IDENTIFIERS, *extra]
    faster_cache.apply_faster_cache(
        model,
        FasterCacheConfig(
            current_timestep_callback=lambda: clock[0],
            attention_weight_callback=lambda _: 0.5,
            _unconditional_conditional_input_kwargs_identifiers=identifiers,
            **config,
        ),
    )
    return run(model, inputs, scale, clock), counted


def ours(name: str, scale: float = 1.0, **parameters: Any) -> Any:
    model, inputs = build(name)
    counted = attended(model)
    autocache.patch(model, "fastercache", **parameters)
    return run(model, inputs, scale), counted


def assert_same(mine: Any, peer: Any, plain: Any) -> None:
    (own, own_attended), (other, other_attended) = mine, peer
    assert [size for _, size in own] == [size for _, size in other]
    assert own_attended == other_attended
    assert own_attended
    changed = 0
    for (a, _), (b, _), (c, _) in zip(own, other, plain, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
        changed += not torch.allclose(a, c, rtol=1e-2, atol=1e-2)
    assert changed


CASES = [
    pytest.param({}, {}, id="defaults"),
    pytest.param(
        {"unconditional_batch_skip_range": 3, "spatial_attention_block_skip_range": 3},
        {"guidance_interval": 3, "attention_interval": 3},
        id="both-every-third",
    ),
    pytest.param(
        {
            "unconditional_batch_timestep_skip_range": (150, 900),
            "spatial_attention_timestep_skip_range": (-1, 400),
            "low_frequency_weight_update_timestep_range": (300, 700),
            "high_frequency_weight_update_timestep_range": (-1, 600),
            "alpha_low_frequency": 1.3,
            "alpha_high_frequency": 0.7,
        },
        {
            "guidance_window": (150, 900),
            "attention_window": (-1, 400),
            "low_window": (300, 700),
            "high_window": (-1, 600),
            "alpha_low": 1.3,
            "alpha_high": 0.7,
        },
        id="windows-and-weights",
    ),
    pytest.param(
        {"unconditional_batch_skip_range": 2, "spatial_attention_block_skip_range": 4},
        {"guidance_interval": 2, "attention_interval": 4},
        id="uneven",
    ),
]


@pytest.mark.parametrize(("config", "parameters"), CASES)
@pytest.mark.parametrize(
    ("name", "layout", "extra"),
    [
        ("CogVideoXTransformer3DModel", "BFCHW", ()),
        ("DiTTransformer2DModel", "BCHW", ("class_labels",)),
    ],
)
def test_batched_guidance(name, layout, extra, config, parameters):
    """The same steps run half the batch and the same attention calls are computed; same outputs.

    The outputs of DiT have twice the latent's channels.
    """
    plain = run(*build(name))
    peer = theirs(name, extra=extra, tensor_format=layout, **config)
    mine = ours(name, **GUIDED, **parameters)
    assert_same(mine, peer, plain)
    sizes = [size for _, size in mine[0]]
    assert {1, 2} == set(sizes)
    assert sum(mine[1]) < sum(sizes)


def test_distilled_guidance():
    """Attention only, in a model without guidance: bit for bit."""
    name = "FluxTransformer2DModel"
    config = {"is_guidance_distilled": True, "spatial_attention_block_skip_range": 3}
    peer = theirs(name, 0.001, **config)
    mine = ours(name, 0.001, feed_back=True, attention_interval=3)
    assert_same(mine, peer, run(*build(name), scale=0.001))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(mine[0], peer[0], strict=True))
    assert len(mine[1]) < STEPS


def test_distilled_guidance_from_the_first_step():
    """Upstream bug: a window that holds the first step fails; here it is computed and kept."""
    name = "FluxTransformer2DModel"
    config = {"is_guidance_distilled": True, "spatial_attention_timestep_skip_range": (-1, 1001)}
    with pytest.raises(TypeError):
        theirs(name, 0.001, **config)
    _, counted = ours(name, 0.001, attention_window=(-1, 1001))
    assert len(counted) == STEPS // 2


def test_feed_back():
    """Extrapolations feed later ones as in diffusers only where that is asked for."""
    name = "CogVideoXTransformer3DModel"
    config = {"attention_interval": 4, "guidance": "batched"}
    peer, _ = theirs(name, tensor_format="BFCHW", spatial_attention_block_skip_range=4)
    official, diffusers = (ours(name, feed_back=f, **config)[0] for f in (False, True))
    close = [
        [torch.allclose(a, b, **TOLERANCE) for (a, _), (b, _) in zip(one, peer, strict=True)]
        for one in (official, diffusers)
    ]
    assert all(close[1])
    assert not all(close[0])


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (12, 5), (3, 4)])
def test_frequencies(size):
    """Shifting all axes, as diffusers does, or the two spatial ones splits alike."""
    x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    low, high = faster_cache._split_low_high_freq(x)
    both = torch.fft.ifft2(torch.fft.ifftshift(1.3 * low + 0.7 * high)).real
    shifted = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    weights = torch.where(disc(*size), 1.3, 0.7)
    own = torch.fft.ifft2(torch.fft.ifftshift(shifted * weights, dim=(-2, -1))).real
    torch.testing.assert_close(own, both)
    assert Frequency.spatial
