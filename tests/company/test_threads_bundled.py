"""Threads on the trained pipelines, from the prompt to the picture: text encoders, tokenizers and
autoencoders are at work at the same time too."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from company.side_by_side import at_once, blocks_run, switching_often
from diffusers import FluxPipeline, StableDiffusionPipeline, WanPipeline

import autocache
from autocache import demo
from autocache.demo.clips import CLIP_SIZE, FRAMES, held_out_clips
from autocache.demo.prompts import held_out
from autocache.demo.single import held_out as held_out_single
from devices import DEVICE

PIPELINES: dict[str, tuple[Any, list[str], dict[str, Any], Any]] = {
    "shapes": (
        FluxPipeline,
        held_out(4),
        {"height": 64, "width": 64, "true_cfg_scale": 3.5, "negative_prompt": ""},
        ("fbcache", {"threshold": 0.3}),
    ),
    "shapes_sd": (
        StableDiffusionPipeline,
        held_out_single(4),
        {"height": 64, "width": 64, "guidance_scale": 3.0},
        "deepcache",
    ),
    "shapes_wan": (
        WanPipeline,
        held_out_clips(4),
        {"height": CLIP_SIZE, "width": CLIP_SIZE, "num_frames": FRAMES, "guidance_scale": 3.0},
        "taylorseer",
    ),
}
"""Class, prompts of different lengths, arguments, strategy."""

STEPS = [6, 8, 7, 6]


def _draw(pipe: Any, name: str, number: int) -> np.ndarray:
    _, prompts, arguments, _ = PIPELINES[name]
    # Asked for in other lengths, tokenizers are set up in another way for each.
    length = {"max_sequence_length": (24, 32)[number % 2]} if name != "shapes_sd" else {}
    output = pipe(
        prompt=prompts[number],
        num_inference_steps=STEPS[number],
        generator=torch.Generator().manual_seed(number),
        output_type="np",
        **length,
        **arguments,
    )
    return output[0]


@pytest.mark.parametrize("name", PIPELINES)
def test_four_threads_draw_what_serial_runs_draw(name: str) -> None:
    """Bit for bit, with as many blocks run, and nothing held in the end."""
    cls, _, _, strategy = PIPELINES[name]
    pipe = cls.from_pretrained(demo.path(name)).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    patch = autocache.patch(pipe, strategy)
    with blocks_run(pipe) as counts:
        serial = [_draw(pipe, name, number) for number in range(4)]
        serial_blocks = counts.total()
    stats = patch.stats()
    assert stats.blocks.share < 1 or stats.attention.share < 1

    def work(number: int) -> list[np.ndarray]:
        with autocache.request(pipe) as own:
            return [_draw(own, name, nth) for nth in (number, 3 - number)]

    with blocks_run(pipe) as counts, switching_often():
        drawn = at_once(*(partial(work, number) for number in range(4)))
    for number, (first, second) in enumerate(drawn):
        assert np.array_equal(first, serial[number])
        assert np.array_equal(second, serial[3 - number])
    assert counts.total() == 2 * serial_blocks
    after = patch.stats()
    assert after.passes == 3 * stats.passes
    assert after.generations == 12
    assert after.blocks.run == 3 * stats.blocks.run
    assert after.bytes_held == 0
