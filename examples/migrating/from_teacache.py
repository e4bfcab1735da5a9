"""From a fork in TeaCache's manner, with a forward of its own, to one call.

    python examples/migrating/from_teacache.py

Such forks copy the model's forward, put the rule into it, and keep its state on the class. This one
is written as small as one can be. Both draw the same picture from the same steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from bundled import STEPS, draw, load, report, watched
from diffusers import FluxTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput

import autocache

THRESHOLD = 0.0578
COEFFICIENTS = (133065.0, -37122.3, 3746.14, -160.333, 2.48818)
"""Measured on the bundled model by `tools/fit_teacache.py`, highest order first."""


# before: a copy of the forward, which has to follow diffusers from release to release
def cached_forward(
    self: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    pooled_projections: torch.Tensor,
    timestep: torch.Tensor,
    img_ids: torch.Tensor,
    txt_ids: torch.Tensor,
    guidance: torch.Tensor | None = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
    return_dict: bool = True,
) -> Any:
    """FluxTransformer2DModel.forward with TeaCache's rule between its embeddings and its blocks."""
    hidden = self.x_embedder(hidden_states)
    text = self.context_embedder(encoder_hidden_states)
    temb = self.time_text_embed(timestep.to(hidden.dtype) * 1000, pooled_projections)
    rotary = self.pos_embed(torch.cat([txt_ids, img_ids]))

    modulated = self.transformer_blocks[0].norm1(hidden, emb=temb)[0]
    if self.cnt in (0, self.num_steps - 1):
        compute = True
    else:
        change = (modulated - self.previous_modulated_input).abs().mean()
        change = (change / self.previous_modulated_input.abs().mean()).item()
        self.accumulated_rel_l1_distance += np.polyval(self.coefficients, change)
        compute = self.accumulated_rel_l1_distance >= self.rel_l1_thresh
    if compute:
        self.accumulated_rel_l1_distance = 0.0
    self.previous_modulated_input = modulated
    self.cnt = (self.cnt + 1) % self.num_steps

    if compute:
        entered = hidden
        for block in self.transformer_blocks:
            text, hidden = block(hidden, text, temb, rotary, joint_attention_kwargs)
        for block in self.single_transformer_blocks:
            text, hidden = block(hidden, text, temb, rotary, joint_attention_kwargs)
        self.previous_residual = hidden - entered
    else:
        hidden = hidden + self.previous_residual
    output = self.proj_out(self.norm_out(hidden, temb))
    return Transformer2DModelOutput(sample=output) if return_dict else (output,)


def by_fork() -> Any:
    """The picture of the forward above."""
    pipe = load()
    plain = FluxTransformer2DModel.forward
    model: Any = FluxTransformer2DModel
    model.forward = cached_forward
    model.cnt, model.num_steps = 0, STEPS
    model.accumulated_rel_l1_distance, model.rel_l1_thresh = 0.0, THRESHOLD
    model.coefficients = COEFFICIENTS
    try:
        return draw(pipe, watched(pipe))
    finally:
        model.forward = plain


def by_patch() -> Any:
    """The picture with autocache."""
    pipe = load()
    # after: the spec says where the modulated input is, for this and every other model
    autocache.patch(
        pipe,
        "teacache",
        threshold=THRESHOLD,
        coefficients=COEFFICIENTS,
        poly_clip="none",  # as the forks: a polynomial below zero is added up as it is
    )
    return draw(pipe, watched(pipe))


def main() -> None:
    """Draw with both and compare."""
    report("fork", by_fork(), by_patch())


if __name__ == "__main__":
    main()
