"""Finding the levels of a UNet, and saying what is wrong with a spec of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocache.errors import SpecError
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.spec.loader import load
from tests.tiny import build

NAME = "UNet2DConditionModel"


def test_levels_face_each_other() -> None:
    """The first level is that of full resolution, and its up block the last one."""
    model, _ = build(NAME)
    unet = bind(registry.resolve(None, model), model).unet
    assert unet is not None
    assert [(*level.down, *level.up) for level in unet.levels] == [
        ("down_blocks.0", "up_blocks.2"),
        ("down_blocks.1", "up_blocks.1"),
        ("down_blocks.2", "up_blocks.0"),
    ]
    outer, _, inner = unet.levels
    assert outer.up_layers[-1] == ("up_blocks.2.resnets.2", "up_blocks.2.attentions.2")
    assert outer.downsamplers == ("down_blocks.0.downsamplers.0",)
    assert inner.down_layers == (("down_blocks.2.resnets.0",), ("down_blocks.2.resnets.1",))
    assert inner.downsamplers == ()
    assert unet.middle == "mid_block"
    # Two layers down, three up and the middle: resnets, and attention in two levels of three.
    assert len(unet.layers) == (6 + 9 + 2) + (4 + 6 + 1)


def test_a_checkpoint_without_attention_binds() -> None:
    """Levels are put together by the configuration; what they lack is not missed."""
    config = {
        "down_block_types": ("DownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    }
    model, _ = build(NAME, **config)
    bound = bind(registry.resolve(None, model), model)
    assert bound.attention_count == 0
    assert bound.unet is not None
    assert bound.unet.middle is None


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("down: down_blocks", "down: down_block", "7:3: UNet2DConditionModel has no ModuleList"),
        ("up: up_blocks", "up: conv_out", "9:3: UNet2DConditionModel has no ModuleList 'conv_out'"),
        ("[resnets, attentions]", "[resnet]", "did you mean 'resnets'?"),
    ],
)
def test_a_wrong_level_is_named(tmp_path: Path, right: str, wrong: str, expected: str) -> None:
    """A wrong fact about the levels is an error with its position."""
    model, _ = build(NAME)
    source = registry.resolve(None, model).file
    assert source is not None
    text = source.read_text()
    assert right in text
    file = tmp_path / source.name
    file.write_text(text.replace(right, wrong, 1))
    with pytest.raises(SpecError) as caught:
        bind(load(file), model)
    assert expected in str(caught.value)
