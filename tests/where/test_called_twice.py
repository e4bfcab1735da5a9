"""A sub-module that a block calls twice: each of its outputs is kept by itself."""

from __future__ import annotations

import torch
from torch import nn

import autocache
from autocache.how import Reuse
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Submodules


class Block(nn.Module):
    """One feed-forward for two streams, of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.ff = nn.Linear(4, 4)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image + self.ff(image), text + self.ff(text)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, image: torch.Tensor, text: torch.Tensor, timestep: float) -> torch.Tensor:
        for block in self.blocks:
            image, text = block(image, text)
        return image.sum(1) + text.sum(1)


SPEC = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{__name__}:Denoiser",
        "latent": "image",
        "stacks": [
            {
                "path": "blocks",
                "block": "Block",
                "streams": ["image", "text"],
                "returns": ["image", "text"],
                "feed_forward": ["ff"],
            }
        ],
    }
)


def test_each_call_of_a_module_has_an_output_of_its_own() -> None:
    """Reuse adds to each stream what its own call gave in the last computed step."""
    torch.manual_seed(0)
    model = Denoiser().requires_grad_(False)
    image, text = torch.randn(1, 6, 4), torch.randn(1, 3, 4)
    model(image, text, 2.0)
    before = {"image": image, "text": text}
    added = {name: torch.zeros_like(stream) for name, stream in before.items()}
    for block in model.blocks:
        for name in before:
            step = block.ff(before[name] + added[name])  # type: ignore[union-attr]
            added[name] = added[name] + step
    parts = {"when": Interval(2, start=0), "where": Submodules(feed_forward=True), "how": Reuse()}
    patch = autocache.patch(model, spec=SPEC, **parts)
    model(image, text, 2.0)
    later = model(2 * image, 2 * text, 1.0)
    expected = sum((2 * before[name] + added[name]).sum(1) for name in before)
    torch.testing.assert_close(later, expected)
    assert patch.stats().steps[-1].sites == {
        f"blocks.{n}.ff{call}": "reused" for n in range(2) for call in ("", "#1")
    }
