"""Samples one picture with an own model and an own loop; knows nothing of autocache.

python examples/custom_model/sample.py
AUTOCACHE=dit_block AUTOCACHE_SPECS=examples/custom_model python examples/custom_model/sample.py
"""

from __future__ import annotations

import argparse
import itertools

import torch
from tinydit import TinyDiT


@torch.no_grad()
def sample(model: TinyDiT, steps: int, guidance: float) -> torch.Tensor:
    """A picture (1, 4, 32, 32) by Euler steps from noise, with classifier-free guidance."""
    noise = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 4, 32, 32, generator=noise)
    caption = torch.randn(1, 8, 64, generator=noise)
    levels = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(levels):
        velocity = model(picture, now[None], caption)
        without = model(picture, now[None], torch.zeros_like(caption))
        picture = picture + (then - now) * (without + guidance * (velocity - without))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--save", help="file to write the picture to, with torch.save")
    options = parser.parse_args()
    torch.manual_seed(0)
    picture = sample(TinyDiT().eval(), options.steps, options.guidance)
    print(f"mean {picture.mean():.4f}, standard deviation {picture.std():.4f}")
    if options.save:
        torch.save(picture, options.save)


if __name__ == "__main__":
    main()
