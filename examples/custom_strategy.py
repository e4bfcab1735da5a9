"""A strategy of one's own, from parts that exist and one that does not.

    python examples/custom_strategy.py

A strategy says when to skip, where to skip and how to fill the gap. Each line printed is one choice
of the three on the bundled pipeline: steps in which all was computed (C), shares of the block and
of the attention calls run, and PSNR in dB against the picture without a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline

import autocache
from autocache.demo.prompts import held_out
from autocache.how import Extrapolate, Reuse
from autocache.metrics import psnr
from autocache.when import Decision, Interval, Moment, When
from autocache.where import Blocks, Denoiser, Submodules


@dataclass(frozen=True)
class LatentMoved(When):
    """Compute once the latent has moved by `threshold` since the last computed step, relative to
    its mean size.

    A rule is immutable: what it remembers goes into the moment's store, which is kept apart for
    each guidance branch and freed when the generation ends.
    """

    threshold: float

    def decide(self, moment: Moment) -> Decision:
        latent = moment.call.latent
        if latent is None:  # a denoiser that takes a list of them
            return Decision(compute=True)
        before = moment.store.get("latent", like=latent)
        moved = None
        if before:
            last = before[-1].tensor
            moved = ((latent - last).abs().mean() / last.abs().mean()).item()
        compute = moment.forced or moved is None or moved >= self.threshold
        if compute:
            moment.store.put("latent", latent, moment.step)
        # `keep` has what is computed remembered, and `distance` shows up in the stats.
        return Decision(compute, keep=True, distance=moved)


CHOICES: dict[str, dict[str, Any]] = {
    "every third step, all blocks, reused": {"when": Interval(3)},
    "the same, extrapolated": {"when": Interval(3), "how": Extrapolate(1, "newton")},
    "the same, attention alone": {
        "when": Interval(3),
        "where": Submodules(attention=("joint",)),
        "how": Reuse(),
    },
    "own rule, inner blocks": {
        "when": LatentMoved(0.15),
        "where": Blocks({"transformer_blocks": (1, 4), "single_transformer_blocks": (0, 8)}),
        "how": Extrapolate(1),
    },
    "own rule, whole denoiser": {
        "when": LatentMoved(0.15),
        "where": Denoiser(),
        "how": Extrapolate(1, "newton"),
        "warmup_steps": 3,
    },
}


def draw(pipe: Any) -> np.ndarray:
    """A picture as floats in [0, 1], (64, 64, 3), always from the same noise."""
    return pipe(
        held_out(1),
        num_inference_steps=28,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]


def main() -> None:
    """Draw without a cache, and with each choice."""
    pipe: Any = FluxPipeline.from_pretrained(autocache.demo.path())
    pipe.set_progress_bar_config(disable=True)
    plain = draw(pipe)
    for name, parts in CHOICES.items():
        with autocache.patched(pipe, **parts) as patch:
            picture = draw(pipe)
            stats = patch.stats()
        steps = "".join("C" if step.action == "computed" else "r" for step in stats.steps)
        quality = psnr(picture[None], plain[None])[0]
        shares = f"{stats.blocks.share:6.1%} {stats.attention.share:6.1%}"
        print(f"{name:<37} {steps} {shares} {quality:5.1f} dB")


if __name__ == "__main__":
    main()
