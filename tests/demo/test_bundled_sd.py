"""The Stable Diffusion shaped pipeline of the repository, loaded and run by plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from autocache import demo
from autocache.demo.checker import share
from autocache.demo.single import held_out, parse
from autocache.demo.single_checker import check

MARGIN = 0.08
"""What a dozen prompts at fewer steps may stay behind the measurement of hundreds."""


@pytest.fixture(scope="module")
def measurement() -> dict:
    return json.loads((Path(demo.path("shapes_sd")) / "measurement.json").read_text())


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(demo.path("shapes_sd"))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipe: StableDiffusionPipeline, captions: list[str], **settings) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(row) for row in range(len(captions))]
    return pipe(
        captions, height=64, width=64, generator=generators, output_type="pt", **settings
    ).images


def test_it_draws_what_held_out_captions_ask_for(
    pipe: StableDiffusionPipeline, measurement: dict
) -> None:
    captions = held_out(12, seed=7)
    images = draw(pipe, captions, num_inference_steps=20, guidance_scale=measurement["guidance"])

    def right(asked: list[str]) -> float:
        pairs = zip(images, asked, strict=True)
        return share(check(image, parse(caption)) for image, caption in pairs)[0]

    assert right(captions) >= measurement["attributes_right"] - MARGIN
    assert right(captions[1:] + captions[:1]) < 0.5


def test_the_measurement_is_worth_the_name(measurement: dict) -> None:
    assert measurement["prompts"] >= 200
    assert measurement["attributes_right"] >= 0.95
    assert measurement["machine"]["processor"]


def test_it_loads_in_float32_by_default(pipe: StableDiffusionPipeline) -> None:
    assert {p.dtype for m in (pipe.unet, pipe.text_encoder, pipe.vae) for p in m.parameters()} == {
        torch.float32
    }


def test_it_has_the_shape_of_stable_diffusion(pipe: StableDiffusionPipeline) -> None:
    assert len(pipe.unet.down_blocks) == len(pipe.unet.up_blocks) == 3
    assert pipe.safety_checker is None
    # The default size is the trained one, so that a call may leave it out.
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 64


def test_a_caption_is_one_token_a_word(pipe: StableDiffusionPipeline) -> None:
    for caption in held_out(50):
        words = pipe.tokenizer.tokenize(caption)
        assert [word.removesuffix("</w>") for word in words] == caption.split()
        assert len(words) + 2 <= pipe.tokenizer.model_max_length


def test_it_is_small() -> None:
    files = [file for file in Path(demo.path("shapes_sd")).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 14.1e6
