"""Deep features of UNets that are not built as Stable Diffusion's: what is skipped is exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.authoring.checks.subject import counted
from autocache.authoring.instance import inputs_of, model_of
from autocache.errors import ParameterError
from autocache.spec import registry
from autocache.where import deep_features

SUMMING_UP = {
    "block_out_channels": [32, 32],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "num_class_embeds": None,
}
"""An image is summed up beside the features, in three channels."""
AUDIO = {
    "block_out_channels": [32, 32, 64],
    "in_channels": 2,
    "out_channels": 2,
    "extra_in_channels": 64,
    "time_embedding_type": "fourier",
    "use_timestep_embedding": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0.0,
    "out_block_type": None,
    "act_fn": None,
    "mid_block_type": "UNetMidBlock1D",
    "down_block_types": ["DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"],
    "up_block_types": ["AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"],
}
"""Dance Diffusion's."""
REPEATING = {"down_blocks_repeat_mappers": [1, 2, 1], "up_blocks_repeat_mappers": [1, 3, 2]}
"""Blocks that run several times in one call, with a convolution in between."""


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at what stands in for a skipped module sees NaN."""
    make = deep_features.Blank.make
    monkeypatch.setattr(deep_features.Blank, "make", lambda blank: make(blank).fill_(torch.nan))


def build(name: str, **config: Any) -> nn.Module:
    return model_of(registry.resolve(name, None), **config)


def given(name: str, step: int, changes: dict[str, Any]) -> dict[str, Any]:
    return inputs_of(registry.resolve(name, None), step) | changes


def check(
    name: str, model: nn.Module, branch: int, kept: list[str], without: list[str], **changes: Any
) -> None:
    """A skipped step runs none of the modules, and all else on old outputs of those kept."""
    autocache.unpatch(model)
    plain, old = copy.deepcopy(model), {}
    filling = False

    def keep(path: str) -> Any:
        def leaves(module: nn.Module, args: tuple, output: Any) -> Any:
            if filling:
                return old[path]
            old[path] = copy.deepcopy(output)
            return None

        return leaves

    for path in kept:
        plain.get_submodule(path).register_forward_hook(keep(path))
    patch = autocache.patch(model, "deepcache", interval=2, branch=branch)
    for step in range(4):
        filling = step % 2 == 1
        inputs = given(name, step, changes)
        with torch.no_grad(), counted(model) as ran:
            found = model(**inputs)[0]
        with torch.no_grad(), counted(plain) as all_run:
            expected = plain(**inputs)[0]
        assert torch.equal(found, expected), step
        left_out = {path for path in all_run if all_run[path] and not ran[path]}
        inside = {p for p in all_run if all_run[p] and p.startswith(tuple(without))}
        assert left_out == (inside if filling else set())
        record = patch.stats().steps[-1]
        assert record.blocks_skipped == (len(inside & units(model)) if filling else 0)


def units(model: nn.Module) -> set[str]:
    """The layers of a UNet's levels, by hand: in lists within the blocks, or the blocks' items."""
    lists = ("down_blocks", "mid_block", "up_blocks", "down_repeat", "up_repeat")
    names = {n for n, m in model.named_modules() if n.startswith(lists)}
    inner = {n for n in names if n.rpartition(".")[0].endswith(("resnets", "attentions"))}
    return inner or {n for n in names if n.count(".") == 2}


def test_a_block_hands_on_more_than_the_feature() -> None:
    """The image summed up so far is read by the running block: it is kept as well."""
    types = {
        "down_block_types": ["SkipDownBlock2D", "SkipDownBlock2D"],
        "up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"],
    }
    model = build("UNet2DModel", **SUMMING_UP, **types)
    changes = {"class_labels": None, "sample": torch.randn(2, 3, 8, 8)}
    deeper = ["down_blocks.1", "mid_block", "up_blocks.0"]
    inside = [*deeper, "down_blocks.0", "up_blocks.1.resnets.0"]
    check("UNet2DModel", model, 0, ["up_blocks.1.resnets.0", "up_blocks.0"], inside, **changes)
    beside = [f"down_blocks.0.{name}" for name in ("downsamplers", "resnet_down", "skip_conv")]
    check("UNet2DModel", model, 1, ["up_blocks.0"], [*deeper, *beside], **changes)


def test_modules_that_are_no_layers_cannot_be_cut_between() -> None:
    """One attention after all resnets belongs to none of them: refused, not cut off early."""
    types = {
        "down_block_types": ["AttnSkipDownBlock2D", "SkipDownBlock2D"],
        "up_block_types": ["SkipUpBlock2D", "AttnSkipUpBlock2D"],
    }
    model = build("UNet2DModel", **SUMMING_UP, **types)
    with pytest.raises(ParameterError, match=r"inside up_blocks\.1 .* do not come in equal layers"):
        autocache.patch(model, "deepcache", branch=0)
    autocache.patch(model, "deepcache", branch=1)


@pytest.mark.parametrize("branch", range(3))
def test_a_skip_connection_for_each_block(branch: int) -> None:
    """Blocks that downsample first and upsample last are left out as a whole."""
    name = "UNet1DModel"
    model = build(name, **AUDIO)
    kept = ["up_blocks.1", "up_blocks.0", "mid_block"][branch]
    downs = [f"down_blocks.{n}" for n in range(branch + 1, 3)]
    without = [*downs, "mid_block", *(f"up_blocks.{n}" for n in range(2 - branch))]
    check(name, model, branch, [kept], without, sample=torch.randn(2, 2, 64))


def test_a_down_block_that_nothing_faces_always_runs() -> None:
    """Three blocks go up and four down: the first one's skip connection is not used."""
    name = "UNet1DModel"
    without = ["down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1"]
    check(name, build(name), 0, ["up_blocks.1"], [*without, "down_blocks.1.downsample"])


def test_no_way_up() -> None:
    """A value function goes down only: there are no levels, and nothing to cut."""
    types = {"up_block_types": [], "out_block_type": "ValueFunction"}
    middle = {"mid_block_type": "ValueFunctionMidBlock1D"}
    model = build("UNet1DModel", **types, **middle, block_out_channels=[8, 16, 32, 64])
    with pytest.raises(ParameterError, match=r"whose up path has 0 to cut at$"):
        autocache.patch(model, "deepcache")
    autocache.patch(model, "easycache")


@pytest.mark.parametrize("config", [{}, REPEATING])
@pytest.mark.parametrize("branch", range(2))
def test_levels_that_are_lists(branch: int, config: dict[str, Any]) -> None:
    """Stable Cascade's blocks are items of lists; one that runs several times counts once."""
    name = "StableCascadeUNet"
    model = build(name, **config)
    downs = ("down_downscalers", "down_blocks", "down_repeat_mappers")
    ups = ("up_blocks", "up_repeat_mappers", "up_upscalers")
    without = [f"{path}.{n}" for n in range(branch + 1, 3) for path in downs]
    without += [f"{path}.{n}" for n in range(2 - branch) for path in ups]
    check(name, model, branch, [f"up_upscalers.{1 - branch}"], without)


def test_the_innermost_level_has_nothing_inside() -> None:
    """Without a middle block there is one cut less than levels."""
    with pytest.raises(ParameterError, match=r"no block .* has 2 to cut at; expected 0 .* to 1"):
        autocache.patch(build("Kandinsky3UNet"), "deepcache", branch=2)
