"""A denoiser of scalars, whose every addition can be followed by hand."""

from __future__ import annotations

import torch
from torch import nn

from autocache.spec.schema import Spec


class ToyAttention(nn.Module):
    """Returns the number of the step it was run in."""

    def forward(self, hidden_states: torch.Tensor, step: int) -> torch.Tensor:
        return torch.full_like(hidden_states, step)


class ToyBlock(nn.Module):
    """Block `b` at step `i` adds `(i + 1)(b + 1)`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.attn = ToyAttention()
        self.ran: list[int] = []
        self.attended: list[int] = []

    def forward(self, hidden_states: torch.Tensor, step: int) -> torch.Tensor:
        self.ran.append(step)
        self.attended.append(int(self.attn(hidden_states, step).flatten()[0]))
        return hidden_states + (step + 1) * (self.number + 1)


class ToyDenoiser(nn.Module):
    """A stack of toy blocks; step `i` is given as the timestep."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(number) for number in range(blocks))

    def forward(self, hidden_states: torch.Tensor, timestep: int) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, step=timestep)
        return hidden_states


SPEC = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{ToyDenoiser.__module__}:ToyDenoiser",
        "stacks": [
            {
                "path": "blocks",
                "block": "ToyBlock",
                "streams": ["hidden_states"],
                "returns": "hidden_states",
                "attention": {"attn": "self"},
            }
        ],
    }
)


def added(model: ToyDenoiser, steps: int) -> list[float]:
    """What each step adds to its input of `1000 (i + 1)`, over one generation."""
    results = []
    for step in range(steps):
        start = torch.full((1, 2), 1000.0 * (step + 1), dtype=torch.float64)
        results.append(float((model(start, step) - start)[0, 0]))
    return results


def executed(model: ToyDenoiser, steps: int) -> list[str]:
    """Per step, a letter per block: C executed, r not, as the blocks themselves counted."""
    blocks = [block for block in model.blocks if isinstance(block, ToyBlock)]
    return ["".join("C" if s in b.ran else "r" for b in blocks) for s in range(steps)]
