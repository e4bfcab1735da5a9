from __future__ import annotations

import random
from itertools import islice

import pytest
import torch

from autocache.demo.prompts import held_out
from autocache.demo.scenes import parse, random_scene, render, scenes


def test_parse_reads_back_every_caption() -> None:
    rng = random.Random(3)
    for scene in (random_scene(rng) for _ in range(500)):
        assert parse(scene.caption) == scene


@pytest.mark.parametrize(
    "text", ["", "a red circle", "two cats on a mat", "a b c d e f g h i j k l m n"]
)
def test_parse_names_the_expected_form(text: str) -> None:
    with pytest.raises(ValueError, match="expected the form 'a "):
        parse(text)


def test_training_never_draws_a_held_out_caption() -> None:
    trained = {scene.caption for scene in islice(scenes(20, held_out=False), 5000)}
    kept_back = {scene.caption for scene in islice(scenes(20, held_out=True), 700)}
    assert not trained & kept_back
    assert len(kept_back) > 600


def test_held_out_prompts_are_distinct_repeatable_and_held_out() -> None:
    prompts = held_out(100, seed=4)
    assert prompts == held_out(100, seed=4)
    assert prompts != held_out(100, seed=5)
    assert len(set(prompts)) == 100
    assert all(parse(prompt).held_out for prompt in prompts)


def test_render_is_repeatable_and_in_range() -> None:
    batch = list(islice(scenes(1, held_out=True), 8))
    first, second = (render(batch, random.Random(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 64, 64)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
