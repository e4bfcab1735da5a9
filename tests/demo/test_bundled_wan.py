"""The video pipeline of a checkout: plain diffusers draws what held-out captions say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

from autocache import demo
from autocache.demo.checker import share
from autocache.demo.clip_checker import ATTRIBUTES, check_clip
from autocache.demo.clips import CLIP_SIZE, FRAMES, held_out_clips, parse_clip

PROMPTS = 8
STEPS = 15
MARGIN = 0.08
"""How far a few clips of fewer steps may fall behind the measurement."""


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    pipe = WanPipeline.from_pretrained(demo.path("shapes_wan"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def measurement() -> dict:
    return json.loads((Path(demo.path("shapes_wan")) / "measurement.json").read_text())


def draw(pipe: WanPipeline, captions: list[str], guidance: float) -> torch.Tensor:
    """Clips as a (captions, frames, 3, height, width) tensor in [0, 1]."""
    return pipe(
        captions,
        height=CLIP_SIZE,
        width=CLIP_SIZE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(row) for row in range(len(captions))],
        output_type="pt",
    ).frames


def test_draws_what_held_out_captions_say(pipe: WanPipeline, measurement: dict) -> None:
    captions = held_out_clips(PROMPTS, seed=1)
    videos = draw(pipe, captions, measurement["guidance"])
    assert videos.shape == (PROMPTS, FRAMES, 3, CLIP_SIZE, CLIP_SIZE)
    overall, each = share(
        check_clip(video.transpose(0, 1), parse_clip(caption))
        for video, caption in zip(videos, captions, strict=True)
    )
    assert overall >= measurement["attributes_right"] - MARGIN, each
    assert min(each["direction"], each["speed"]) >= 0.8
    other, _ = share(
        check_clip(video.transpose(0, 1), parse_clip(caption))
        for video, caption in zip(videos, captions[1:] + captions[:1], strict=True)
    )
    assert other < overall - 0.3


def test_loads_in_float32_and_stays_small(pipe: WanPipeline) -> None:
    models = (pipe.transformer, pipe.vae, pipe.text_encoder)
    parameters = [parameter for model in models for parameter in model.parameters()]
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert sum(parameter.numel() for parameter in parameters) < 7e6
    stored = sum(f.stat().st_size for f in Path(demo.path("shapes_wan")).rglob("*") if f.is_file())
    assert stored < 14e6


def test_the_measurement_is_of_held_out_captions(measurement: dict) -> None:
    assert measurement["prompts"] >= 100
    assert tuple(measurement["attributes"]) == ATTRIBUTES
    assert measurement["attributes_right"] >= 0.95
    assert measurement["machine"]["processor"]
