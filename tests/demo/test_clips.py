from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest
import torch

from autocache.demo.checker import share
from autocache.demo.clip_checker import ATTRIBUTES, check_clip, read_clip
from autocache.demo.clips import (
    CLIP_SIZE,
    FRAMES,
    VOCABULARY,
    Clip,
    clips,
    held_out_clips,
    parse_clip,
    render_clips,
)

COUNT = 120


@pytest.fixture(scope="module")
def truth() -> list[Clip]:
    return [parse_clip(caption) for caption in held_out_clips(COUNT)]


@pytest.fixture(scope="module")
def videos(truth: list[Clip]) -> torch.Tensor:
    return render_clips(truth, random.Random(1))


def answers(videos: torch.Tensor, captions: list[Clip]) -> list[dict[str, bool]]:
    return [check_clip(video, clip) for video, clip in zip(videos, captions, strict=True)]


def test_captions_read_back(truth: list[Clip]) -> None:
    assert len(set(truth)) == COUNT
    for clip in truth:
        assert parse_clip(clip.caption) == clip


@pytest.mark.parametrize("caption", ["", "a red circle", "a large red circle moving left"])
def test_another_caption_is_refused_with_an_example(caption: str) -> None:
    with pytest.raises(ValueError, match=r"expected the form 'a \w+ \w+ \w+ moving "):
        parse_clip(caption)


def test_training_never_draws_a_held_out_caption() -> None:
    drawn = {clip.caption for clip in islice(clips(0, held_out=False), 2000)}
    assert not drawn & set(held_out_clips(200))


def test_more_held_out_captions_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"9999 held-out captions asked for, there are 2\d\d"):
        held_out_clips(9999)


def test_fewer_held_out_captions_are_the_first_of_more() -> None:
    assert held_out_clips(5, seed=3) == held_out_clips(50, seed=3)[:5]
    assert held_out_clips(5, seed=3) != held_out_clips(5, seed=4)


def test_reads_rendered_clips(truth: list[Clip], videos: torch.Tensor) -> None:
    assert videos.shape == (COUNT, 3, FRAMES, CLIP_SIZE, CLIP_SIZE)
    overall, each = share(answers(videos, truth))
    assert overall >= 0.99
    assert tuple(each) == ATTRIBUTES
    assert min(each.values()) >= 0.99


def test_reads_blurred_and_noisy_clips(truth: list[Clip], videos: torch.Tensor) -> None:
    blurred = torch.nn.functional.avg_pool3d(videos, (1, 3, 3), 1, (0, 1, 1))
    noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    overall, each = share(answers((0.5 * blurred + 0.5 * videos + 0.04 * noise), truth))
    assert overall >= 0.98
    assert min(each.values()) >= 0.95


def test_a_wrong_colour_fails_what_is_said_of_the_object(
    truth: list[Clip], videos: torch.Tensor
) -> None:
    wrong = replace(truth[0], colour="red" if truth[0].colour != "red" else "blue")
    right = {name for name, value in check_clip(videos[0], wrong).items() if value}
    assert right == {"tint"}


@pytest.mark.parametrize("field", ["shape", "size", "direction", "speed", "tint"])
def test_another_word_fails_alone(truth: list[Clip], videos: torch.Tensor, field: str) -> None:
    place = list(Clip.__dataclass_fields__).index(field)
    words = list(VOCABULARY[place])

    def other(clip: Clip) -> Clip:
        return replace(clip, **{field: words[words.index(getattr(clip, field)) - 1]})

    _, each = share(answers(videos[:40], [other(clip) for clip in truth[:40]]))
    assert each.pop(field) <= 0.01
    assert min(each.values()) >= 0.97


def test_a_still_object_goes_nowhere(videos: torch.Tensor) -> None:
    seen = read_clip(videos[0][:, :1].expand(-1, FRAMES, -1, -1))
    assert seen.colour is not None
    assert seen.direction is None
    assert seen.speed is None


def test_a_clip_played_backwards_moves_the_other_way(
    truth: list[Clip], videos: torch.Tensor
) -> None:
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for clip, video in zip(truth[:10], videos, strict=False):
        assert read_clip(video.flip(1)).direction == opposite[clip.direction]


def test_an_object_that_vanishes_is_not_seen(truth: list[Clip], videos: torch.Tensor) -> None:
    video = videos[0].clone()
    video[:, FRAMES // 2 :] = 0.5
    assert not any(check_clip(video, truth[0])[name] for name in ATTRIBUTES[:-1])


def test_an_empty_clip_shows_nothing(truth: list[Clip]) -> None:
    seen = read_clip(torch.zeros(3, FRAMES, CLIP_SIZE, CLIP_SIZE))
    assert seen.colour is None
    assert not any(check_clip(torch.zeros(3, FRAMES, 32, 32), truth[0]).values())
