"""What the trainers of the bundled pipelines share: tokenizers, optimizers, the resumable loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTokenizer, T5Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def atomic_save(value: object, path: Path) -> None:
    """Write beside and rename, so that a killed run never leaves half a checkpoint."""
    torch.save(value, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def clip_tokenizer(words: Sequence[str], folder: Path, length: int) -> CLIPTokenizer:
    """A CLIP tokenizer of which each of `words` is one token, saved in `folder`."""
    byte_pairs = Tokenizer(BPE(end_of_word_suffix="</w>"))
    byte_pairs.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        # Final letters come here because the trainer would number them in another order each run.
        special_tokens=["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in LETTERS)],
        initial_alphabet=list(LETTERS),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    byte_pairs.train_from_iterator(words, trainer)
    learned = json.loads(byte_pairs.to_str())["model"]
    vocab, merges = learned["vocab"], [tuple(pair) for pair in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5_tokenizer(words: Sequence[str], folder: Path, length: int) -> T5Tokenizer:
    """A T5 tokenizer of which each of `words` is one token, saved in `folder`."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces = [("\u2581" + word, -3.0) for word in words]
    letters = [(letter, -9.0) for letter in LETTERS]
    tokenizer = T5Tokenizer(vocab=special + pieces + letters, extra_ids=0, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate: linear warmup, then a cosine down to 0.02."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())


class Progress:
    """One line every `every` steps: loss, speed, time left."""

    def __init__(self, name: str, total: int, every: int = 50) -> None:
        self.name, self.total, self.every = name, total, every
        self.started, self.first, self.losses = time.monotonic(), None, []

    def __call__(self, step: int, loss: float) -> None:
        self.first = step if self.first is None else self.first
        self.losses.append(loss)
        if (step + 1) % self.every == 0:
            pace = (time.monotonic() - self.started) / (step + 1 - self.first)
            mean = sum(self.losses) / len(self.losses)
            left = pace * (self.total - step - 1) / 60
            speed = f"{pace:.2f} s/step, {left:.0f} min left"
            print(f"{self.name} {step + 1}/{self.total} loss {mean:.4f} {speed}", flush=True)
            self.losses.clear()


def optimizers(
    inside: Iterable[nn.Parameter],
    outside: Iterable[nn.Parameter],
    inside_rate: float = 2e-3,
    outside_rate: float = 1.5e-3,
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside a denoiser's blocks, AdamW for everything else."""
    muon = torch.optim.Muon(
        inside, lr=inside_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(outside, lr=outside_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adam]


def moving_average(model: nn.Module) -> AveragedModel:
    """The moving average of a model's weights that `train` keeps."""
    return AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))


def train(
    checkpoint: Path,
    model: nn.Module,
    chosen: Sequence[torch.optim.Optimizer],
    steps: int,
    loss_of: Callable[[int], torch.Tensor],
    *,
    average: AveragedModel | None = None,
    warmup: int = 100,
    every: int = 250,
) -> None:
    """Train up to `steps` steps, from the checkpoint where there is one.

    `loss_of` maps a step's number to its loss and draws its batch from that number alone. The peak
    learning rates are those the optimizers come with.
    """
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in chosen]
    modules = {"model": model} | ({} if average is None else {"average": average})
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=next(model.parameters()).device)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        for optimizer, saved in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    report = Progress(checkpoint.stem, steps)
    for step in range(start, steps):
        factor = cosine(step, steps, warmup)
        for optimizer, rates in zip(chosen, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
        if average is not None:
            average.update_parameters(model)
        report(step, loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {name: module.state_dict() for name, module in modules.items()}
            state |= {"optimizers": [o.state_dict() for o in chosen], "step": step + 1}
            atomic_save(state, checkpoint)


def train_autoencoder(
    checkpoint: Path,
    vae: nn.Module,
    steps: int,
    draw: Callable[[int], torch.Tensor],
    chosen: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Train a diffusers autoencoder on the pictures or clips in [-1, 1] that `draw(step)` returns.

    `chosen` optimizes it instead of AdamW.
    """
    adam = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        pixels = draw(step)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels.device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = decoded.float() - pixels
        loss = difference.abs().mean() + 2 * difference.square().mean()
        return loss + 3e-4 * posterior.kl().mean() / posterior.mean[0].numel()

    train(checkpoint, vae, chosen or [adam], steps, loss_of, warmup=50, every=200)
    vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_latents(
    path: Path,
    vae: nn.Module,
    source: Iterator,
    draw: Callable[[list], torch.Tensor],
    count: int,
    *,
    centred: bool = True,
) -> dict:
    """Latents and captions of `count` scenes of `source`, the latents of unit variance.

    `draw` maps scenes to pictures in [-1, 1]. A pipeline whose decoding knows no shift needs
    latents that are not centred.
    """
    if path.exists():
        return torch.load(path)
    latents, captions = [], []
    for done in range(0, count, 100):
        batch = [next(source) for _ in range(100)]
        latents.append(vae.encode(draw(batch)).latent_dist.mean.cpu())
        captions += [scene.caption for scene in batch]
        if done % 2000 == 0:
            print(f"latents {done}/{count}", flush=True)
    stacked = torch.cat(latents)
    shift, scale = stacked.mean().item() if centred else 0.0, 1 / stacked.std().item()
    data = {
        "latents": ((stacked - shift) * scale).half(),
        "captions": captions,
        "shift": shift,
        "scale": scale,
    }
    atomic_save(data, path)
    return data


def load_weights(model: nn.Module, checkpoint: Path, *, averaged: bool) -> None:
    """Load the weights `train` left, the moving average of them or the last ones."""
    state = torch.load(checkpoint, map_location="cpu")
    if averaged:
        prefix = "module."
        weights = {
            name.removeprefix(prefix): value
            for name, value in state["average"].items()
            if name.startswith(prefix)
        }
    else:
        weights = state["model"]
    model.load_state_dict(weights)


def load_in_float32(out: Path, *names: str) -> None:
    """Let a plain `from_pretrained` load the transformers models `names` in float32.

    diffusers loads its models in float32 unless told otherwise, transformers in the dtype its
    config names: of a pipeline stored in half precision the two would not fit together.
    """
    for name in names:
        config = out / name / "config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n"
        )
