"""Models that add to a stream between the blocks, also in place, as ControlNet runs do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autocache
from toy import SPEC, ToyBlock, ToyDenoiser


class Controlled(ToyDenoiser):
    """Adds 100 after every block."""

    in_place = True

    def forward(self, hidden_states: torch.Tensor, timestep: int) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, step=timestep)
            if self.in_place:
                hidden_states += 100
            else:
                hidden_states = hidden_states + 100
        return hidden_states


def _added(model: nn.Module, step: int) -> float:
    start = torch.full((1, 2), 1000.0 * (step + 1))
    with torch.no_grad():
        return float((model(start.clone(), step) - start)[0, 0])


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("blocks", [(0, 4), (1, 3), (1, 4), (2, 3)])
def test_what_is_added_between_skipped_blocks_counts_once(
    blocks: tuple[int, int], in_place: bool
) -> None:
    """A skipped range is what went in plus all that was added up to its last block, then."""
    model = Controlled(4)
    model.in_place = in_place
    start, end = blocks
    options = {"step_start": 0, "step_interval": 2, "blocks": blocks}
    patch = autocache.patch(model, "dit_block", spec=SPEC, **options)
    assert _added(model, 0) == 400 + sum(range(1, 5))
    inside = sum(number + 1 for number in range(start, end))
    outside = sum(range(1, 5)) - inside
    assert _added(model, 1) == 400 + inside + 2 * outside
    assert patch.stats().steps[-1].blocks_skipped == end - start
    skipped = [
        block for block in model.blocks if isinstance(block, ToyBlock) and 1 not in block.ran
    ]
    assert len(skipped) == end - start
