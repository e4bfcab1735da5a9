"""What random programs act on: tiny pipelines, and bare models in someone's own loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from pipelines import tiny_pipelines
from pipelines.tiny_pipelines import denoisers
from torch import nn

import tiny
from devices import DEVICE

SMALL: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {"num_layers": 3, "num_single_layers": 2},
    "WanTransformer3DModel": {"num_layers": 3},
    "UNet2DConditionModel": {
        "layers_per_block": 1,
        "block_out_channels": (8, 12),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
}

BOUNDARY = 0.6
"""Where the second expert takes over: each has half of four steps."""


@dataclass(frozen=True)
class Generation:
    """The arguments of one generation. `size` is in latents."""

    steps: int = 4
    size: int = 8
    batch: int = 1
    guided: bool = False
    seed: int = 0


Between = Callable[[Any, int], None]
"""What is called with the target after each step, and the number of that step."""


def _flux() -> Any:
    pipe = tiny_pipelines.flux(**SMALL["FluxTransformer2DModel"])
    return diffusers.FluxPipeline(**{**pipe.components, "vae": None})


def _wan() -> Any:
    """Two experts; the first runs the noisier half of the steps."""
    small = SMALL["WanTransformer3DModel"]
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny.build("WanTransformer3DModel", **small)[0],
        transformer_2=tiny.build("WanTransformer3DModel", seed=1, **small)[0],
        boundary_ratio=BOUNDARY,
    )


def _sd() -> Any:
    pipe = tiny_pipelines.stable_diffusion(**SMALL["UNet2DConditionModel"])
    parts = {**pipe.components, "vae": None}
    return diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)


def _bare(name: str) -> Callable[[], nn.Module]:
    return lambda: tiny.build(name, **SMALL[name])[0]


BUILDERS: dict[str, Callable[[], Any]] = {
    "flux": _flux,
    "wan": _wan,
    "sd": _sd,
    "bare flux": _bare("FluxTransformer2DModel"),
    "bare wan": _bare("WanTransformer3DModel"),
    "bare unet": _bare("UNet2DConditionModel"),
}
KINDS = tuple(BUILDERS)

_pristine: dict[str, Any] = {}


def fresh(kind: str) -> Any:
    """One that nobody touched: the same weights on every call."""
    if kind not in _pristine:
        _pristine[kind] = BUILDERS[kind]()
    return duplicate(_pristine[kind])


def duplicate(target: Any) -> Any:
    """A copy of a pipeline or model that nothing acts on, with weights of its own."""
    if isinstance(target, nn.Module):
        return copy.deepcopy(target)
    parts = dict(target.components)
    for name in ("transformer", "transformer_2", "unet", "scheduler"):
        if name in parts:
            parts[name] = copy.deepcopy(parts[name])
    if isinstance(target, diffusers.WanPipeline):
        parts["boundary_ratio"] = BOUNDARY
    if isinstance(target, diffusers.StableDiffusionPipeline):
        parts["requires_safety_checker"] = False
    made = type(target)(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def is_bare(target: Any) -> bool:
    return isinstance(target, nn.Module)


def generate(target: Any, asked: Generation, between: Between) -> torch.Tensor:
    """What a generation makes: a pipeline's own, or that of a loop around a bare model."""
    if is_bare(target):
        return _loop(target, asked, between)

    def callback(pipe: Any, step: int, timestep: Any, given: dict) -> dict:
        between(pipe, step)
        return given

    options = {"callback_on_step_end": callback}
    # Where there is no autoencoder, pipelines count eight pixels to a latent.
    size = asked.size if isinstance(target, diffusers.WanPipeline) else 8 * asked.size
    return tiny_pipelines.run(target, **{**vars(asked), "size": size}, **options)


def call(target: Any, seed: int) -> torch.Tensor:
    """What the first denoiser makes of a single call, outside of any generation."""
    return _loop(denoisers(target)[0], Generation(steps=1, seed=seed), lambda *_: None)


@torch.no_grad()
def _loop(model: nn.Module, asked: Generation, between: Between) -> torch.Tensor:
    """Someone's own sampling loop: it asks no scheduler, and calls once for each branch."""
    latent, texts, given = _INPUTS[type(model).__name__](asked)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    scale = 1.0 if type(model).__name__.startswith("Flux") else 1000.0
    name = "sample" if "UNet" in type(model).__name__ else "hidden_states"
    latent = latent.to(DEVICE, dtype)
    for step in range(asked.steps):
        time = torch.full((asked.batch,), scale * (1 - step / asked.steps), device=DEVICE)
        given_now = {**given, name: latent, "timestep": time, "return_dict": False}
        made = [
            model(encoder_hidden_states=text.to(DEVICE, dtype), **_cast(given_now, dtype))[0]
            for text in texts
        ]
        guess = made[0] if len(made) == 1 else made[1] + 3.0 * (made[0] - made[1])
        latent = latent - guess / asked.steps
        between(model, step)
    return latent


def _cast(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Embeddings in the model's type; positions and times as they are."""
    kept = ("timestep", "img_ids", "txt_ids")
    return {
        name: value.to(DEVICE, dtype if name not in kept else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in given.items()
    }


def _random(asked: Generation) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(asked.seed)
    return lambda *shape: torch.randn(asked.batch, *shape, generator=generator)


def _flux_inputs(asked: Generation) -> tuple:
    random, side = _random(asked), asked.size // 2
    places = torch.arange(side)
    grid = torch.cartesian_prod(torch.arange(1), places, places).float()
    given = {"img_ids": grid, "txt_ids": torch.zeros(12, 3), "pooled_projections": random(32)}
    return random(side * side, 4), [random(12, 32) for _ in range(1 + asked.guided)], given


def _wan_inputs(asked: Generation) -> tuple:
    random = _random(asked)
    texts = [random(12, 16) for _ in range(1 + asked.guided)]
    return random(4, 2, asked.size, asked.size), texts, {}


def _unet_inputs(asked: Generation) -> tuple:
    random = _random(asked)
    texts = [random(6, 8) for _ in range(1 + asked.guided)]
    return random(4, asked.size, asked.size), texts, {}


_INPUTS: dict[str, Callable[[Generation], tuple]] = {
    "FluxTransformer2DModel": _flux_inputs,
    "WanTransformer3DModel": _wan_inputs,
    "UNet2DConditionModel": _unet_inputs,
}


def blocks(target: Any) -> Iterator[tuple[str, nn.Module]]:
    """The blocks and the attention modules of all denoisers."""
    for model in denoisers(target):
        for name, module in model.named_modules():
            if type(module).__name__ in tiny_pipelines.FEED_FORWARD and "refiner" not in name:
                yield "block", module
                inner = (getattr(module, path, None) for path in ("attn", "attn1", "attn2"))
                yield from (
                    ("attention", attention) for attention in inner if attention is not None
                )
