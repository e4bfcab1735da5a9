"""Train the bundled text-to-image pipeline from nothing: `python tools/train_demo.py`.

Stages: tokenizers, autoencoder, latents, flow transformer with its text encoders, export. Each
checkpoints and resumes; running the command again continues where it stopped. Every batch is drawn
from the seed and its step number alone: an interrupted run sees the data of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from autocache.demo.scenes import random_scene, render, scenes
from training import (
    clip_tokenizer,
    encode_latents,
    load_in_float32,
    load_weights,
    moving_average,
    optimizers,
    t5_tokenizer,
    train,
    train_autoencoder,
)

SEED = 20
TEXT_LENGTH = 24
DROP_CAPTION = 0.1
NOISE_SHARE = 0.4
"""Share of samples drawn at nearly pure noise: where each object goes is decided there, and a
logit-normal alone hardly ever visits it."""


def build_tokenizers(folder: Path) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Tokenizers whose vocabulary is the words of the captions."""
    rng = random.Random(SEED)
    words = sorted({word for _ in range(2000) for word in random_scene(rng).caption.split()})
    clip = clip_tokenizer(words, folder / "tokenizer", TEXT_LENGTH)
    return clip, t5_tokenizer(words, folder / "tokenizer_2", TEXT_LENGTH)


def build_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )


def build_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=96,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def build_text_encoders(
    clip: CLIPTokenizer, t5: T5Tokenizer
) -> tuple[CLIPTextModel, T5EncoderModel]:
    pooled = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=clip.bos_token_id,
            eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
        )
    )
    words = T5EncoderModel(
        T5Config(
            vocab_size=len(t5),
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    return pooled, words


def load_autoencoder(folder: Path, device: torch.device, steps: int, batch: int) -> AutoencoderKL:
    """The autoencoder, trained up to `steps` steps."""
    vae = build_autoencoder().to(device)

    def draw(step: int) -> torch.Tensor:
        rng = random.Random(f"autoencoder-{SEED}-{step}")
        return render([random_scene(rng) for _ in range(batch)], rng).to(device) * 2 - 1

    train_autoencoder(folder / "autoencoder.pt", vae, steps, draw)
    return vae


class Denoiser(nn.Module):
    """The flow transformer and the two text encoders trained with it."""

    def __init__(self, clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.pooled, self.words = build_text_encoders(clip, t5)

    def forward(self, noisy, sigma, clip_ids, t5_ids):
        images = FluxPipeline._prepare_latent_image_ids(1, 8, 8, noisy.device, torch.float32)
        return self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            pooled_projections=self.pooled(clip_ids).pooler_output,
            encoder_hidden_states=self.words(t5_ids)[0],
            txt_ids=torch.zeros(t5_ids.shape[1], 3, device=noisy.device),
            img_ids=images,
            return_dict=False,
        )[0]


def parameter_groups(model: Denoiser) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices inside the transformer's blocks, and everything else."""
    inside, outside = [], []
    for name, parameter in model.named_parameters():
        is_matrix = "transformer_blocks" in name and parameter.ndim == 2 and "norm" not in name
        (inside if is_matrix else outside).append(parameter)
    return inside, outside


def noise_levels(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels in (0, 1]: a logit-normal, and a share of them uniform in the noisiest tenth."""
    middle = torch.sigmoid(torch.randn(batch, generator=generator) + 0.2)
    noisiest = 1 - 0.1 * torch.rand(batch, generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < NOISE_SHARE, noisiest, middle)


def train_flow(folder: Path, device: torch.device, data: dict, steps: int, batch: int) -> None:
    clip, t5 = build_tokenizers(folder)
    torch.manual_seed(SEED)
    model = Denoiser(clip, t5).to(device)
    pad = {"padding": "max_length", "max_length": TEXT_LENGTH, "return_tensors": "pt"}
    clip_ids = clip([*data["captions"], ""], **pad).input_ids
    t5_ids = t5([*data["captions"], ""], **pad).input_ids
    packed = (
        data["latents"].reshape(-1, 4, 8, 2, 8, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 64, 16)
    )

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(len(packed), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < DROP_CAPTION
        text = torch.where(dropped, len(packed), index)
        clean = packed[index].float().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = noise_levels(batch, generator).to(device)
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        velocity = model(noisy, sigma, clip_ids[text].to(device), t5_ids[text].to(device))
        return (velocity - (noise - clean)).square().mean()

    chosen = optimizers(*parameter_groups(model))
    train(folder / "flow.pt", model, chosen, steps, loss_of, average=moving_average(model))


def export(folder: Path, out: Path, vae: AutoencoderKL, data: dict) -> None:
    """Write the averaged weights as a diffusers pipeline in half precision."""
    clip, t5 = build_tokenizers(folder)
    model = Denoiser(clip, t5)
    load_weights(model, folder / "flow.pt", averaged=True)
    vae.register_to_config(scaling_factor=data["scale"], shift_factor=data["shift"])
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=model.pooled,
        tokenizer=clip,
        text_encoder_2=model.words,
        tokenizer_2=t5,
        transformer=model.transformer,
    )
    pipe.to(torch.float16).save_pretrained(out, safe_serialization=True)
    load_in_float32(out, "text_encoder", "text_encoder_2")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/train_demo"), help="checkpoints live here"
    )
    parser.add_argument("--out", type=Path, default=Path("autocache/demo/models/shapes"))
    parser.add_argument("--device", default="cpu", help="any torch device")
    parser.add_argument("--autoencoder-steps", type=int, default=900)
    parser.add_argument("--flow-steps", type=int, default=5000)
    parser.add_argument("--scenes", type=int, default=24000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--export-only", action="store_true", help="export the checkpoints as they are"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.manual_seed(SEED)
    vae = load_autoencoder(options.work, device, options.autoencoder_steps, 32)
    rng = random.Random(SEED)
    data = encode_latents(
        options.work / "latents.pt",
        vae,
        scenes(SEED, held_out=False),
        lambda batch: render(batch, rng).to(device) * 2 - 1,
        options.scenes,
    )
    if not options.export_only:
        train_flow(options.work, device, data, options.flow_steps, options.batch)
    export(options.work, options.out, vae.cpu(), data)


if __name__ == "__main__":
    sys.exit(main())
