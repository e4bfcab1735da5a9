"""The bundled weights: small enough to ship, and as good as their measurement says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

import autocache
from autocache import demo
from autocache.demo import checker
from autocache.demo.prompts import held_out
from autocache.demo.scenes import parse


@pytest.fixture(scope="module")
def measured() -> dict:
    return json.loads((Path(demo.path()) / "measurement.json").read_text())


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    loaded = FluxPipeline.from_pretrained(demo.path("shapes"))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipe: FluxPipeline, captions: list[str], guidance: float, steps: int) -> torch.Tensor:
    return pipe(
        prompt=captions,
        negative_prompt=[""] * len(captions) if guidance > 1 else None,
        true_cfg_scale=guidance,
        num_inference_steps=steps,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=[torch.Generator().manual_seed(row) for row in range(len(captions))],
        output_type="pt",
    ).images


def test_it_ships_in_twelve_megabytes_of_half_precision():
    """The bundled pipeline is at most 12 MB, its weights in half precision."""
    files = [file for file in Path(demo.path()).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12e6
    from safetensors import safe_open

    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as weights:
                assert {weights.get_tensor(k).dtype for k in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_the_measurement_is_of_two_hundred_prompts_at_28_steps(measured):
    """The committed measurement was taken as promised and reaches what was promised."""
    assert (measured["prompts"], measured["steps"]) == (200, 28)
    assert measured["attributes_right"] >= 0.9


def test_the_weights_draw_as_well_as_was_measured(pipe, measured):
    """A sample of the measurement, drawn again with the shipped weights, is no accident away."""
    captions = held_out(24, measured["seed"])
    images = draw(pipe, captions, measured["guidance"], measured["steps"])
    pairs = zip(images, captions, strict=True)
    right, _ = checker.share([checker.check(image, parse(text)) for image, text in pairs])
    assert right >= measured["attributes_right"] - 0.1


def test_caching_it_skips_half_and_keeps_the_pictures(pipe):
    """teacache on the trained pipeline skips blocks, and its pictures stay close to plain ones."""
    captions = held_out(4)
    plain = draw(pipe, captions, 1.0, 28)
    with autocache.patched(pipe, "teacache") as patch:
        cached = draw(pipe, captions, 1.0, 28)
        assert patch.stats().blocks.share < 0.7
    error = (plain - cached).double().square().mean(dim=(1, 2, 3))
    assert (10 * torch.log10(1 / error)).mean() > 25
    assert torch.equal(plain, draw(pipe, captions, 1.0, 28))
