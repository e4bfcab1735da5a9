"""Tiny diffusers pipelines with random weights, and one way to call them all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import nn

import tiny
from devices import DEVICE

FEED_FORWARD = {
    "FluxTransformerBlock": "ff",
    "FluxSingleTransformerBlock": "proj_mlp",
    "WanTransformerBlock": "ffn",
    "QwenImageTransformerBlock": "img_mlp",
    "HunyuanVideoTransformerBlock": "ff",
    "HunyuanVideoSingleTransformerBlock": "proj_mlp",
    "CogVideoXBlock": "ff",
    "BasicTransformerBlock": "ff",
}
"""Per block class, a sub-module that runs exactly once whenever the whole block does."""


def _vae(channels: int) -> diffusers.AutoencoderKL:
    torch.manual_seed(5)
    return diffusers.AutoencoderKL(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=channels, shift_factor=0.0
    ).eval()


def flux(**config: Any) -> diffusers.FluxPipeline:
    """With an autoencoder, so that image-to-image can be made of it."""
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False),
        vae=_vae(1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny.build("FluxTransformer2DModel", **config)[0],
    )


def wan() -> diffusers.WanPipeline:
    """Two experts; the first runs the noisier half of the steps."""
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny.build("WanTransformer3DModel")[0],
        transformer_2=tiny.build("WanTransformer3DModel", seed=1)[0],
        boundary_ratio=0.5,
    )


def qwen() -> diffusers.QwenImagePipeline:
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=tiny.build("QwenImageTransformer2DModel")[0],
    )


def hunyuan() -> diffusers.HunyuanVideoPipeline:
    return diffusers.HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=tiny.build("HunyuanVideoTransformer3DModel")[0],
        vae=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=None,
        tokenizer_2=None,
    )


def cogvideox() -> diffusers.CogVideoXPipeline:
    return diffusers.CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=tiny.build("CogVideoXTransformer3DModel")[0],
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def dit() -> diffusers.DiTPipeline:
    """The pipeline's null class is always number 1000."""
    return diffusers.DiTPipeline(
        tiny.build("DiTTransformer2DModel", num_embeds_ada_norm=1000)[0],
        _vae(4),
        diffusers.DDIMScheduler(),
    )


def stable_diffusion(**config: Any) -> diffusers.StableDiffusionPipeline:
    """Both guidance branches in one batch."""
    return diffusers.StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=None,
        tokenizer=None,
        unet=tiny.build("UNet2DConditionModel", **config)[0],
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> diffusers.StableDiffusionXLPipeline:
    """No attention in the first level, two transformer blocks per layer in the last."""
    config = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=tiny.build("UNet2DConditionModel", **config)[0],
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


UNETS: dict[str, Callable[[], Any]] = {"sd": stable_diffusion, "sdxl": stable_diffusion_xl}
"""Pipelines whose denoiser has levels in place of block stacks."""

BUILDERS: dict[str, Callable[[], Any]] = {
    "flux": flux,
    "wan": wan,
    "qwen": qwen,
    "hunyuan": hunyuan,
    "cogvideox": cogvideox,
    "dit": dit,
}


def make(name: str) -> Any:
    """The same weights on every call."""
    pipe = (BUILDERS | UNETS)[name]().to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(
    pipe: Any,
    *,
    steps: int = 8,
    size: int = 8,
    batch: int = 1,
    guided: bool = False,
    seed: int = 0,
    **options: Any,
) -> torch.Tensor:
    """One generation; equal arguments give equal noise and conditioning. `size` is in latents."""
    noise = torch.Generator().manual_seed(seed)
    called = {"num_inference_steps": steps, "generator": noise, "return_dict": False, **options}
    with torch.no_grad():
        return pipe(**_arguments(pipe, size, batch, guided, seed), **called)[0]


def _arguments(pipe: Any, size: int, batch: int, guided: bool, seed: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed + 100)
    dtype = denoisers(pipe)[0].dtype

    def embeds(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=random).to(DEVICE, dtype)

    kind = type(pipe).__name__
    pixels = {"height": size * 8, "width": size * 8, "output_type": "latent"}
    if kind.startswith("Flux"):
        names = ["prompt_embeds", "pooled_prompt_embeds"]
        names += ["negative_" + name for name in names] if guided else []
        given = {name: embeds(32) if "pooled" in name else embeds(12, 32) for name in names}
        pixels = {"height": size, "width": size, "output_type": "latent"}
        return {**given, **pixels, "true_cfg_scale": 3.0 if guided else 1.0}
    if kind == "DiTPipeline":
        labels = [3, 5, 7][:batch]
        scale = 3.0 if guided else 1.0
        return {"class_labels": labels, "guidance_scale": scale, "output_type": "pt"}
    scale = 3.0 if guided else 1.0
    if kind.startswith("StableDiffusion"):
        pooled = ["pooled_prompt_embeds"] if "XL" in kind else []
        names = [prefix + n for prefix in ("", "negative_") for n in ("prompt_embeds", *pooled)]
        given = {name: embeds(32) if "pooled" in name else embeds(6, 8) for name in names}
        shape = {} if "Img2Img" in kind else {"height": size, "width": size}
        return {**given, **shape, "guidance_scale": scale, "output_type": "latent"}
    if kind == "WanPipeline":
        given = {"prompt_embeds": embeds(12, 16), "num_frames": 5, "guidance_scale": scale}
        negative = {"negative_prompt_embeds": embeds(12, 16)} if guided else {}
    elif kind == "QwenImagePipeline":
        mask = torch.ones(batch, 8, dtype=torch.int64, device=DEVICE)
        given = {"prompt_embeds": embeds(8, 16), "prompt_embeds_mask": mask}
        given["true_cfg_scale"] = scale
        negative = {"negative_prompt_embeds": embeds(8, 16), "negative_prompt_embeds_mask": mask}
    elif kind == "HunyuanVideoPipeline":
        mask = torch.ones(batch, 12, device=DEVICE)
        given = {"prompt_embeds": embeds(12, 16), "pooled_prompt_embeds": embeds(8)}
        given |= {"prompt_attention_mask": mask, "num_frames": 1, "true_cfg_scale": scale}
        negative = {"negative_prompt_embeds": embeds(12, 16)}
        negative |= {"negative_pooled_prompt_embeds": embeds(8)}
        negative |= {"negative_prompt_attention_mask": mask}
    else:
        given = {"prompt_embeds": embeds(8, 8), "num_frames": 5, "guidance_scale": scale}
        negative = {"negative_prompt_embeds": embeds(8, 8)}
    return {**given, **(negative if guided else {}), **pixels}


def denoisers(target: Any) -> list[nn.Module]:
    """The denoisers of a pipeline, by hand."""
    if isinstance(target, nn.Module):
        return [target]
    found = (getattr(target, name, None) for name in ("transformer", "transformer_2", "unet"))
    return [model for model in found if model is not None]


@contextlib.contextmanager
def counted(target: Any) -> Iterator[dict[str, Counter[int]]]:
    """Calls that really ran, counted inside the blocks: per denoiser's number, `block`s and
    `attention`s (self and joint only)."""
    counts: dict[str, Counter[int]] = {"block": Counter(), "attention": Counter()}
    handles = []

    def count(module: nn.Module, kind: str, number: int) -> None:
        def hook(*_: Any) -> None:
            counts[kind][number] += 1

        handles.append(module.register_forward_hook(hook))

    for number, model in enumerate(denoisers(target)):
        for name, module in model.named_modules():
            inside = FEED_FORWARD.get(type(module).__name__)
            # The text refiner of HunyuanVideo is no part of the block stacks.
            if inside is not None and "refiner" not in name:
                count(module.get_submodule(inside), "block", number)
                attention = getattr(module, "attn1", None) or module.attn
                count(attention.to_q, "attention", number)
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
