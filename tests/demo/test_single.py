from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn import functional

from autocache.demo.checker import share
from autocache.demo.single import WORDS, Scene, held_out, parse, render, scenes
from autocache.demo.single_checker import ATTRIBUTES, check, read_scene

COUNT = 200


@pytest.fixture(scope="module")
def truth() -> list[Scene]:
    return list(islice(scenes(5, held_out=True), COUNT))


@pytest.fixture(scope="module")
def pictures(truth: list[Scene]) -> torch.Tensor:
    return render(truth, random.Random(1))


def answers(pictures: torch.Tensor, captions: list[Scene]) -> list[dict[str, bool]]:
    return [check(image, scene) for image, scene in zip(pictures, captions, strict=True)]


def test_captions_parse_back(truth: list[Scene]) -> None:
    assert [parse(scene.caption) for scene in truth] == truth


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red circle",
        "a top left small red circle on a sand background lit from left please",
        "a top left small red circle on a sand background seen from left",
    ],
)
def test_another_caption_is_refused_with_an_example(caption: str) -> None:
    with pytest.raises(ValueError, match=r"not a scene caption: .*; expected the form 'a \w+"):
        parse(caption)


def test_the_splits_share_no_caption() -> None:
    held = set(held_out(1000))
    assert len(held) == 1000
    assert not held & {scene.caption for scene in islice(scenes(1, held_out=False), 2000)}
    assert all(parse(caption).held_out for caption in held)


def test_held_out_captions_are_those_of_their_seed() -> None:
    assert held_out(20, seed=3) == held_out(20, seed=3)
    assert held_out(20, seed=3) != held_out(20, seed=4)


def test_more_captions_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="10000 held-out captions asked for, there are 1"):
        held_out(10000)


def test_reads_rendered_scenes(truth: list[Scene], pictures: torch.Tensor) -> None:
    overall, each = share(answers(pictures, truth))
    assert overall >= 0.99
    assert tuple(each) == ATTRIBUTES
    assert min(each.values()) >= 0.99


def test_reads_blurred_and_noisy_scenes(truth: list[Scene], pictures: torch.Tensor) -> None:
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)
    blurred = functional.conv2d(
        functional.pad(pictures, (1,) * 4, mode="replicate"), kernel, groups=3
    )
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    _, each = share(answers((blurred + 0.04 * noise).clamp(0, 1), truth))
    assert min(each.values()) >= 0.97


@pytest.mark.parametrize("field", ATTRIBUTES)
def test_another_word_fails(field: str, truth: list[Scene], pictures: torch.Tensor) -> None:
    words = list(WORDS[ATTRIBUTES.index(field)])

    def other(scene: Scene) -> Scene:
        word = words[(words.index(getattr(scene, field)) + 1) % len(words)]
        return replace(scene, **{field: word})

    _, each = share(answers(pictures[:60], [other(scene) for scene in truth[:60]]))
    assert each[field] <= 0.02
    assert each["tint" if field == "light" else "light"] >= 0.98


def test_what_is_said_of_an_object_of_another_colour_is_wrong(
    truth: list[Scene], pictures: torch.Tensor
) -> None:
    scene = truth[0]
    wrong = replace(scene, colour="red" if scene.colour != "red" else "blue")
    right = {name for name, value in check(pictures[0], wrong).items() if value}
    assert right == {"tint", "light"}


def test_an_empty_picture_shows_no_object() -> None:
    seen = read_scene(torch.full((3, 64, 64), 0.5))
    assert (seen.row, seen.column, seen.size, seen.colour, seen.shape) == (None,) * 5
    assert seen.tint == "grey"


def test_a_picture_without_background_shows_none(truth: list[Scene]) -> None:
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, 64, 64)
    seen = read_scene(red)
    assert seen.colour == "red"
    assert seen.tint is None
    assert seen.light is None
