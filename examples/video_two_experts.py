"""Text to video with two denoisers, one for the noisy steps and one for the others, as in Wan 2.2.

    python examples/video_two_experts.py

The bundled pipeline has one, so the second is made of the same weights: what this shows is the
change of experts, and not a better clip. Writes `build/examples/video_two_experts.gif`, without
caching on the left.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from PIL import Image

import autocache
from autocache.metrics import psnr

PROMPT = "a large red circle moving right quickly on a grey background"
OUT = Path("build/examples/video_two_experts.gif")


def two_experts() -> Any:
    """The first denoiser runs above 70 % of the noise, the second below."""
    folder = autocache.demo.path("shapes_wan")
    second = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    return WanPipeline.from_pretrained(folder, transformer_2=second, boundary_ratio=0.7)


def draw(pipe: Any) -> tuple[np.ndarray, float]:
    """The clip as floats (17, 32, 32, 3) in [0, 1], and its seconds."""
    began = time.perf_counter()
    clip = pipe(
        PROMPT,
        num_inference_steps=30,
        height=32,
        width=32,
        num_frames=17,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]
    return clip, time.perf_counter() - began


def main() -> None:
    pipe = two_experts()
    draw(pipe)  # The first clip pays for what is set up once.
    plain, without = draw(pipe)

    patch = autocache.patch(pipe, speedup=2)

    cached, seconds = draw(pipe)
    for name in ("transformer", "transformer_2"):
        print(f"{name}: {autocache.stats(getattr(pipe, name)).denoiser} calls computed")
    both = patch.stats().denoiser
    print(f"both: {both} calls computed, {without / seconds:.2f} times as fast")
    print(f"PSNR {min(psnr(plain, cached)):.1f} dB in the worst frame")

    OUT.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.concatenate([plain, cached], axis=2) * 255).round().astype(np.uint8)
    first, *others = [Image.fromarray(frame) for frame in pixels]
    first.save(OUT, save_all=True, append_images=others, duration=60, loop=0)
    print(f"without and with caching: {OUT}")


if __name__ == "__main__":
    main()
