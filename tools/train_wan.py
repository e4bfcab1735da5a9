"""Train the bundled text-to-video pipeline from nothing: `python tools/train_wan.py`.

Stages: tokenizer, autoencoder, latents, decoder, denoiser with its text encoder, export. Each
checkpoints and resumes; running the command again continues where it stopped. Every batch is drawn
from the seed and its step number alone: an interrupted run sees the data of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from autocache.demo.clips import FRAMES, Clip, clips, random_clip, render_clips
from training import (
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
TOKENS = 13
"""Tokens the trainer reads: the longest caption's 12, and one of padding."""
PADDED_TO = 512
"""Tokens WanPipeline pads a prompt to unless told otherwise."""
TEXT_WIDTH = 96
LATENT_CHANNELS = 24
AUTOENCODER_FRAMES = (9, 9, 17)
"""Lengths the autoencoder trains on, in batches of as many frames: only the longest teach it not
to drift, and the shorter ones show it more of the captions in the same time."""
DROP_CAPTION = 0.1
NOISE_SHARE = 0.4
"""Share of samples drawn at nearly pure noise: where the object goes is decided there, and a
logit-normal alone hardly ever visits it."""


def build_tokenizer(folder: Path) -> T5Tokenizer:
    """Tokenizer whose vocabulary is the words of the captions."""
    rng = random.Random(SEED)
    words = sorted({word for _ in range(2000) for word in random_clip(rng).caption.split()})
    return t5_tokenizer(words, folder / "tokenizer", PADDED_TO)


def build_autoencoder(
    mean: list[float] | None = None, std: list[float] | None = None
) -> AutoencoderKLWan:
    """Four to one in time, eight to one on either side; `mean` and `std` are those of its latents.

    It starts near the identity on every residual path and nearly without noise on its latents: the
    usual start loses the picture between its two ends and takes a thousand steps to find it.
    """
    vae = AutoencoderKLWan(
        base_dim=24,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
        for module in vae.modules():
            if isinstance(module, WanResidualBlock):
                module.conv2.weight.mul_(0.1)
        vae.quant_conv.weight[LATENT_CHANNELS:].mul_(0.1)
        vae.quant_conv.bias[LATENT_CHANNELS:].fill_(-5.0)
    return vae


def build_transformer() -> WanTransformer3DModel:
    """The denoiser, its queries turned away from the key of padding.

    A caption is a dozen tokens among 500 of padding that attention does not mask: from the usual
    start hardly any gradient would reach the words.
    """
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=128,
        ffn_dim=512,
        num_layers=8,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        padding = transformer.condition_embedder.text_embedder(torch.zeros(1, TEXT_WIDTH))
        for block in transformer.blocks:
            key = block.attn2.norm_k(block.attn2.to_k(padding))
            block.attn2.to_q.bias.copy_(-key[0])
    return transformer


def build_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


class ConvolutionMuon(torch.optim.Muon):
    """Muon on convolutions, each kernel taken as a matrix of output channels by all the rest."""

    def __init__(self, kernels: list[nn.Parameter], **options) -> None:
        self.kernels = kernels
        # Flattened views share the kernels' memory: what this writes to them, the model has.
        super().__init__([nn.Parameter(kernel.data.flatten(1)) for kernel in kernels], **options)

    def step(self, closure=None):
        for matrix, kernel in zip(self.param_groups[0]["params"], self.kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self.kernels:
            kernel.grad = None


def autoencoder_optimizers(vae: AutoencoderKLWan) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions inside, AdamW for the first, the last and everything else."""
    kernels, others = [], []
    for name, parameter in vae.named_parameters():
        if not parameter.requires_grad:
            continue
        is_inside = parameter.ndim >= 4 and "conv_in" not in name and "conv_out" not in name
        (kernels if is_inside else others).append(parameter)
    muon = ConvolutionMuon(kernels, lr=3e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)]


def sharpen_decoder(
    folder: Path, vae: AutoencoderKLWan, steps: int, draw: Callable[[int], torch.Tensor]
) -> None:
    """Train the decoder alone for longer, the latents staying what the denoiser learns.

    Squared differences weigh more here than in `train_autoencoder`: they are large at the edges
    that make the shapes, where the absolute ones are large all over the background.
    """
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)

    def loss_of(step: int) -> torch.Tensor:
        pixels = draw(step)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            with torch.no_grad():
                posterior = vae.encode(pixels).latent_dist
            generator = torch.Generator().manual_seed(step)
            noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels.device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = decoded.float() - pixels
        return difference.abs().mean() + 10 * difference.square().mean()

    checkpoint = folder / "decoder.pt"
    train(checkpoint, vae, autoencoder_optimizers(vae), steps, loss_of, warmup=50, every=200)
    vae.eval().requires_grad_(False)


class BriefPadding(WanAttnProcessor):
    """Cross-attention in which one token of padding stands for all of them.

    Equal keys whose logits are raised by the logarithm of their number weigh what that many keys
    weigh, so the result is that of a prompt padded to `PADDED_TO` tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias: torch.Tensor | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb)


class Denoiser(nn.Module):
    """The transformer and the text encoder trained with it."""

    def __init__(self, tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.words = build_text_encoder(tokenizer)

    def forward(self, noisy, sigma, ids, mask):
        """Velocity of (batch, channels, frames, height, width) latents at noise levels `sigma`.

        `ids` and `mask` are (batch, TOKENS), the last token always padding.
        """
        embedded = self.words(ids, mask).last_hidden_state * mask[..., None]
        lengths = mask.sum(1, keepdim=True)
        beyond = torch.arange(ids.shape[1], device=ids.device) - lengths
        bias = torch.where(beyond == 0, (PADDED_TO - lengths).float().log(), -torch.inf)
        bias = torch.where(beyond < 0, 0.0, bias)[:, None, None, :]
        for block in self.transformer.blocks:
            block.attn2.processor.bias = bias
        return self.transformer(noisy, sigma * 1000, embedded, return_dict=False)[0]


def pipeline(model: Denoiser, tokenizer: T5Tokenizer, vae: AutoencoderKLWan) -> WanPipeline:
    """The models as the plain pipeline, attending as diffusers does."""
    for block in model.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=model.words,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=model.transformer,
    )


def trained_denoiser(tokenizer: T5Tokenizer) -> Denoiser:
    """A denoiser whose cross-attention reads `TOKENS` tokens as if they were `PADDED_TO`."""
    model = Denoiser(tokenizer)
    for block in model.transformer.blocks:
        block.attn2.set_processor(BriefPadding())
    return model


@torch.no_grad()
def check_padding(tokenizer: T5Tokenizer) -> None:
    """Fail unless training and the pipeline compute the same velocity.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    model = trained_denoiser(tokenizer).eval()
    captions = [random_clip(random.Random(SEED)).caption, ""]
    noisy = torch.randn(2, LATENT_CHANNELS, 5, 4, 4)
    sigma = torch.tensor([0.9, 0.3])
    ids, mask = tokens(tokenizer, captions)
    brief = model(noisy, sigma, ids, mask)
    plain = pipeline(model, tokenizer, build_autoencoder())
    embedded = plain.encode_prompt(captions, None, False, max_sequence_length=PADDED_TO)[0]
    full = plain.transformer(noisy, sigma * 1000, embedded, return_dict=False)[0]
    worst = (brief - full).abs().max().item()
    if worst > 1e-4:
        raise RuntimeError(f"training and the pipeline differ by {worst}: padding is misread")


def tokens(tokenizer: T5Tokenizer, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of captions, (len(captions), TOKENS) each."""
    padding = {"padding": "max_length", "max_length": TOKENS, "return_tensors": "pt"}
    read = tokenizer(captions, return_attention_mask=True, **padding)
    return read.input_ids, read.attention_mask


def unit_channels(data: dict) -> tuple[torch.Tensor, list[float], list[float]]:
    """Latents of unit variance in each channel, and the autoencoder's means and deviations."""
    latents = data["latents"].float()
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    latents = (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    return (
        latents.half(),
        (data["shift"] + mean / data["scale"]).tolist(),
        (std / data["scale"]).tolist(),
    )


def noise_levels(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels in (0, 1]: a logit-normal, and a share of them uniform in the noisiest tenth."""
    middle = torch.sigmoid(torch.randn(batch, generator=generator) + 0.2)
    noisiest = 1 - 0.1 * torch.rand(batch, generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < NOISE_SHARE, noisiest, middle)


def train_denoiser(
    folder: Path, device: torch.device, data: dict, steps: int, batch: int, *, compiled: bool
) -> None:
    tokenizer = build_tokenizer(folder)
    torch.manual_seed(SEED)
    check_padding(tokenizer)
    torch.manual_seed(SEED)
    model = trained_denoiser(tokenizer).to(device)
    inside, outside = [], []
    for name, parameter in model.named_parameters():
        is_matrix = "transformer.blocks" in name and name.endswith("weight") and parameter.ndim == 2
        (inside if is_matrix else outside).append(parameter)
    average = moving_average(model)
    if compiled:
        for block in model.transformer.blocks:
            block.compile()
    latents = unit_channels(data)[0]
    ids, masks = tokens(tokenizer, [*data["captions"], ""])

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(len(latents), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < DROP_CAPTION
        text = torch.where(dropped, len(latents), index)
        clean = latents[index].float().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = noise_levels(batch, generator).to(device)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        velocity = model(noisy, sigma, ids[text].to(device), masks[text].to(device))
        return (velocity - (noise - clean)).square().mean()

    train(
        folder / "denoiser.pt",
        model,
        optimizers(inside, outside),
        steps,
        loss_of,
        average=average,
    )


def export(folder: Path, out: Path, vae: AutoencoderKLWan, data: dict, *, averaged: bool) -> None:
    """Write the weights as a diffusers pipeline in half precision."""
    tokenizer = build_tokenizer(folder)
    model = Denoiser(tokenizer)
    load_weights(model, folder / "denoiser.pt", averaged=averaged)
    scaled = build_autoencoder(*unit_channels(data)[1:])
    scaled.load_state_dict(vae.state_dict())
    pipeline(model, tokenizer, scaled).to(torch.float16).save_pretrained(out)
    load_in_float32(out, "text_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/train_wan"), help="checkpoints live here"
    )
    parser.add_argument("--out", type=Path, default=Path("examples/models/shapes_wan"))
    parser.add_argument("--device", default="cpu", help="any torch device")
    parser.add_argument("--autoencoder-steps", type=int, default=2200)
    parser.add_argument("--decoder-steps", type=int, default=1000)
    parser.add_argument("--denoiser-steps", type=int, default=3000)
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks: faster where it works"
    )
    parser.add_argument(
        "--raw", action="store_true", help="export the last weights, not their moving average"
    )
    parser.add_argument(
        "--export-only", action="store_true", help="export the checkpoints as they are"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.manual_seed(SEED)
    vae = build_autoencoder().to(device)

    def pixels(batch: list[Clip], rng: random.Random) -> torch.Tensor:
        return render_clips(batch, rng).to(device) * 2 - 1

    def draw(step: int, stage: str = "autoencoder") -> torch.Tensor:
        rng = random.Random(f"{stage}-{SEED}-{step}")
        length = rng.choice(AUTOENCODER_FRAMES)
        batch = [random_clip(rng) for _ in range(max(AUTOENCODER_FRAMES) * 4 // length)]
        first = rng.randrange(FRAMES - length + 1)
        return pixels(batch, rng)[:, :, first : first + length]

    checkpoint, chosen = options.work / "autoencoder.pt", autoencoder_optimizers(vae)
    train_autoencoder(checkpoint, vae, options.autoencoder_steps, draw, chosen)
    source, rng = clips(SEED, held_out=False), random.Random(SEED)
    latents = options.work / "latents.pt"
    data = encode_latents(latents, vae, source, lambda batch: pixels(batch, rng), options.clips)
    steps = options.decoder_steps
    sharpen_decoder(options.work, vae, steps, lambda step: draw(step, "decoder"))
    if not options.export_only:
        train_denoiser(
            options.work,
            device,
            data,
            options.denoiser_steps,
            options.batch,
            compiled=options.compile,
        )
    export(options.work, options.out, vae.cpu(), data, averaged=not options.raw)


if __name__ == "__main__":
    sys.exit(main())
