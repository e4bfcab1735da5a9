"""Train the Stable Diffusion shaped pipeline from nothing: `python tools/train_sd.py`.

Stages: tokenizer, latents, denoiser with its text encoder, export. The autoencoder is the one of
the bundled `shapes` pipeline, trained by `tools/train_demo.py`. Latents and denoiser are kept and
resumed; running the command again continues where it stopped. Every batch is drawn from the seed
and its step number alone: an interrupted run sees the data of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from autocache import demo
from autocache.demo.single import random_scene, render, scenes
from training import (
    clip_tokenizer,
    encode_latents,
    load_in_float32,
    load_weights,
    moving_average,
    optimizers,
    train,
)

SEED = 30
TEXT_LENGTH = 16
TEXT_WIDTH = 96
DROP_CAPTION = 0.1
NOISE_SHARE = 0.15
"""Share of samples drawn from the noisiest tenth alone: where the object goes is decided there."""


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer whose vocabulary is the words of the captions."""
    rng = random.Random(SEED)
    words = sorted({word for _ in range(2000) for word in random_scene(rng).caption.split()})
    return clip_tokenizer(words, folder / "tokenizer", TEXT_LENGTH)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, brought to pure noise at its last step.

    Without that the pipeline starts from more noise than training ever showed, and brightness and
    place of what it draws suffer.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(48, 80, 112),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        # What diffusers calls the heads' dimension here is their number.
        attention_head_dim=(2, 2, 4),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Denoiser(nn.Module):
    """The U-Net and the text encoder trained with it."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(tokenizer)

    def forward(self, noisy, timestep, ids):
        return self.unet(noisy, timestep, self.text_encoder(ids)[0]).sample


def parameter_groups(model: Denoiser) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the U-Net's attention blocks, and everything else."""
    inside, outside = [], []
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("unet") and "attentions" in name and parameter.ndim == 2
        (inside if is_matrix else outside).append(parameter)
    return inside, outside


def timesteps(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Training timesteps: as often as they are noisy, and a share of them from the noisiest tenth.

    Latents this small hold little that is left to learn once their noise is low.
    """
    anywhere = (1000 * torch.rand(batch, generator=generator).sqrt()).long().clamp(max=999)
    noisiest = torch.randint(900, 1000, (batch,), generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < NOISE_SHARE, noisiest, anywhere)


def train_denoiser(folder: Path, device: torch.device, data: dict, steps: int, batch: int) -> None:
    tokenizer, scheduler = build_tokenizer(folder), build_scheduler()
    torch.manual_seed(SEED)
    model = Denoiser(tokenizer).to(device)
    latents = data["latents"]
    ids = tokenizer(
        [*data["captions"], ""], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(len(latents), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < DROP_CAPTION
        text = torch.where(dropped, len(latents), index)
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)
        timestep = timesteps(batch, generator)
        noisy = scheduler.add_noise(clean, noise, timestep).to(device)
        target = scheduler.get_velocity(clean, noise, timestep).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(noisy, timestep.to(device), ids[text].to(device))
        return (velocity.float() - target).square().mean()

    chosen = optimizers(*parameter_groups(model))
    train(folder / "denoiser.pt", model, chosen, steps, loss_of, average=moving_average(model))


def export(folder: Path, out: Path, vae: AutoencoderKL, scale: float, *, averaged: bool) -> None:
    """Write a diffusers pipeline in half precision."""
    tokenizer = build_tokenizer(folder)
    model = Denoiser(tokenizer)
    load_weights(model, folder / "denoiser.pt", averaged=averaged)
    # Its config would name the folder it was loaded from.
    vae.register_to_config(scaling_factor=scale, shift_factor=None, _name_or_path="shapes")
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(out, safe_serialization=True)
    load_in_float32(out, "text_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/train_sd"), help="checkpoints live here"
    )
    parser.add_argument("--out", type=Path, default=Path("examples/models/shapes_sd"))
    parser.add_argument("--device", default="cpu", help="any torch device")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--scenes", type=int, default=24000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--weights",
        choices=("average", "last"),
        default="last",
        help="export the last weights or their moving average, which lags behind",
    )
    parser.add_argument(
        "--export-only", action="store_true", help="export the checkpoints as they are"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    vae = AutoencoderKL.from_pretrained(demo.path(), subfolder="vae").to(device)
    rng = random.Random(SEED)
    data = encode_latents(
        options.work / "latents.pt",
        vae,
        scenes(SEED, held_out=False),
        lambda batch: render(batch, rng).to(device) * 2 - 1,
        options.scenes,
        centred=False,
    )
    if not options.export_only:
        train_denoiser(options.work, device, data, options.steps, options.batch)
    averaged = options.weights == "average"
    export(options.work, options.out, vae.cpu(), data["scale"], averaged=averaged)


if __name__ == "__main__":
    sys.exit(main())
