"""A ControlNet beside a cached UNet: it runs at every step, and the UNet at some.

    python examples/controlnet.py

The ControlNet is made from the UNet and not trained. A new one adds nothing, so that its output
convolutions get small random weights here: what it is shown changes the picture, to no purpose.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers import UNet2DConditionModel as UNet

import autocache
from autocache.demo.single import held_out
from autocache.metrics import psnr


def controlled() -> Any:
    """The bundled pipeline with a ControlNet."""
    folder = autocache.demo.path("shapes_sd")
    net = ControlNetModel.from_unet(
        UNet.from_pretrained(folder, subfolder="unet"),
        conditioning_embedding_out_channels=(16, 32, 96),  # four pixels in one, as its latents
    )
    torch.manual_seed(0)
    for layer in net.controlnet_cond_embedding.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.1)
    return StableDiffusionControlNetPipeline.from_pretrained(folder, controlnet=net)


def draw(pipe: Any, shown: torch.Tensor) -> tuple[np.ndarray, float]:
    """The picture as floats (1, 64, 64, 3) in [0, 1], and its seconds."""
    began = time.perf_counter()
    picture = pipe(
        held_out(1)[0],
        image=shown,
        num_inference_steps=30,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return picture, time.perf_counter() - began


def main() -> None:
    pipe = controlled()
    pipe.set_progress_bar_config(disable=True)
    shown = torch.zeros(1, 3, 64, 64)
    shown[..., 16:48, 16:48] = 1
    calls = []
    pipe.controlnet.register_forward_hook(lambda *_: calls.append("ControlNet"))
    draw(pipe, shown)  # The first picture pays for what is set up once.
    plain, without = draw(pipe, shown)
    free, _ = draw(pipe, torch.zeros_like(shown))

    autocache.patch(pipe, "deepcache", interval=3)

    calls.clear()
    cached, seconds = draw(pipe, shown)
    stats = autocache.stats(pipe)
    print(f"UNet blocks run: {stats.blocks}; ControlNet run: {len(calls)} of {stats.passes}")
    print(f"{without / seconds:.2f} times as fast")
    print(f"PSNR {psnr(plain, cached)[0]:.1f} dB to the same picture without caching")
    print(f"PSNR {psnr(plain, free)[0]:.1f} dB to the picture that another control image gives")


if __name__ == "__main__":
    main()
