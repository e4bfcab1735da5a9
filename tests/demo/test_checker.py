from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn import functional

from autocache.demo.checker import ATTRIBUTES, check, read, share
from autocache.demo.scenes import SHAPES, Scene, Thing, render, scenes

COUNT = 300


@pytest.fixture(scope="module")
def truth() -> list[Scene]:
    return list(islice(scenes(5, held_out=True), COUNT))


@pytest.fixture(scope="module")
def pictures(truth: list[Scene]) -> torch.Tensor:
    return render(truth, random.Random(1))


def answers(pictures: torch.Tensor, captions: list[Scene]) -> list[dict[str, bool]]:
    return [check(image, scene) for image, scene in zip(pictures, captions, strict=True)]


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
    overall, each = share(answers((blurred + 0.04 * noise).clamp(0, 1), truth))
    assert overall >= 0.97
    assert min(each.values()) >= 0.97


def test_swapped_colours_fail(truth: list[Scene], pictures: torch.Tensor) -> None:
    swapped = [
        replace(
            scene,
            first=replace(scene.first, colour=scene.second.colour),
            second=replace(scene.second, colour=scene.first.colour),
        )
        for scene in truth
    ]
    assert not any(all(answer.values()) for answer in answers(pictures, swapped))


def test_a_colour_that_is_not_there_fails_all_of_its_object(
    truth: list[Scene], pictures: torch.Tensor
) -> None:
    scene = truth[0]
    absent = next(
        c for c in ("red", "green", "blue") if c not in (scene.first.colour, scene.second.colour)
    )
    wrong = replace(scene, first=replace(scene.first, colour=absent))
    answer = check(pictures[0], wrong)
    right = {name for name, value in answer.items() if value}
    assert right == {"colour of second", "shape of second", "size of second"}


def test_another_shape_fails(truth: list[Scene], pictures: torch.Tensor) -> None:
    def other(thing: Thing) -> Thing:
        return replace(thing, shape=SHAPES[(SHAPES.index(thing.shape) + 1) % len(SHAPES)])

    wrong = [replace(s, first=other(s.first), second=other(s.second)) for s in truth[:100]]
    _, each = share(answers(pictures[:100], wrong))
    assert each["shape of first"] <= 0.01
    assert each["shape of second"] <= 0.01
    assert each["colour of first"] >= 0.99


def test_the_opposite_relation_and_the_other_size_fail(
    truth: list[Scene], pictures: torch.Tensor
) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    resized = {"small": "large", "large": "small"}
    wrong = [
        replace(
            scene,
            relation=opposite[scene.relation],
            first=replace(scene.first, size=resized[scene.first.size]),
        )
        for scene in truth[:100]
    ]
    _, each = share(answers(pictures[:100], wrong))
    assert each["relation"] <= 0.01
    assert each["size of first"] <= 0.01


def test_an_empty_picture_shows_nothing(truth: list[Scene]) -> None:
    grey = torch.full((3, 64, 64), 0.5)
    assert read(grey) == {}
    assert not any(check(grey, truth[0]).values())


def test_share_of_nothing_is_zero() -> None:
    assert share([]) == (0.0, {})
