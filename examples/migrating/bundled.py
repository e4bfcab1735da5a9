"""What these scripts share: the bundled pipeline, one picture, and which of its steps computed.

The steps are counted in a block of the model itself, so that what a library says of itself plays
no part.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.utils import logging

import autocache
from autocache.demo.prompts import held_out

STEPS = 28
PROMPT = held_out(1)[0]


@dataclass
class Drawing:
    """A picture as floats in [0, 1], (64, 64, 3), and a letter for each step: C computed, r not."""

    picture: np.ndarray
    steps: str


def require(module: str, package: str) -> None:
    """End with status 2 and one line where a package to migrate from is not installed."""
    if importlib.util.find_spec(module) is None:
        print(f"this example runs {package}: pip install {package}", file=sys.stderr)
        sys.exit(2)


def load() -> Any:
    """The pipeline that comes with autocache, 4 + 8 blocks, as a new object."""
    logging.disable_progress_bar()
    pipe: Any = FluxPipeline.from_pretrained(autocache.demo.path("shapes"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def watched(pipe: Any) -> Any:
    """A module in the middle of the model, which runs in every step that computes its block."""
    return pipe.transformer.single_transformer_blocks[4].attn.to_q


def draw(pipe: Any, module: Any) -> Drawing:
    """One picture from the same noise as ever, with the steps in which `module` ran."""
    ran: list[bool] = [False]
    handle = module.register_forward_hook(lambda *_: ran.__setitem__(-1, True))

    def next_step(*_: Any) -> dict[str, Any]:
        ran.append(False)
        return {}

    try:
        picture = pipe(
            PROMPT,
            num_inference_steps=STEPS,
            height=64,
            width=64,
            max_sequence_length=24,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            callback_on_step_end=next_step,
        ).images[0]
    finally:
        handle.remove()
    return Drawing(picture, "".join("C" if it else "r" for it in ran[:STEPS]))


def report(theirs: str, before: Drawing, after: Drawing) -> None:
    """Print both lines of steps, whether they agree, and how far the pictures are apart."""
    for name, drawing in ((theirs, before), ("autocache", after)):
        print(f"{name:<12} {drawing.steps}  {drawing.steps.count('C')} of {STEPS} computed")
    pairs = zip(before.steps, after.steps, strict=True)
    unlike = [str(step) for step, (one, other) in enumerate(pairs) if one != other]
    apart = np.abs(before.picture - after.picture).max()
    print("steps differ:", ", ".join(unlike) if unlike else "none")
    print(f"largest difference of a pixel: {apart:.1e}")
