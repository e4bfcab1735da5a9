"""A skipped step is a full one whose feature map at the cut is that of the last full step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.errors import ParameterError
from autocache.how import Extrapolate
from autocache.probe import Named
from autocache.when import Accumulated, Interval
from autocache.where import DeepFeatures, deep_features
from tiny import build

UNET = "UNet2DConditionModel"
TIMES = [900.0, 700.0, 500.0, 300.0]
Extra = Callable[[int], dict[str, Any]]

CUTS = [
    "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.0",
    "up_blocks.1",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.0",
    "up_blocks.0",
    "up_blocks.0.resnets.1",
    "up_blocks.0.resnets.0",
    "mid_block",
]
"""By branch, the module whose output goes on into the layers that run."""


def given(inputs: Callable[[float], dict[str, Any]], step: int, extra: Extra) -> dict[str, Any]:
    made = inputs(TIMES[step])
    made["sample"] = made["sample"] * (1 + 0.1 * step)
    return made | extra(step)


def recomposed(
    model: nn.Module, inputs: Any, cut: str, interval: int, extra: Extra
) -> list[torch.Tensor]:
    """The plain model, all of it run, with the one feature map replaced."""
    feature: list[Any] = []
    outputs = []

    def leaves(module: nn.Module, args: tuple, output: Any) -> Any:
        if step % interval == 0:
            # A copy: a T2I adapter's features are added to the middle block's output in place.
            feature[:] = [torch.utils._pytree.tree_map(torch.clone, output)]
            return None
        return torch.utils._pytree.tree_map(torch.clone, feature[0])

    handle = model.get_submodule(cut).register_forward_hook(leaves)
    with torch.no_grad():
        for step in range(len(TIMES)):
            outputs.append(model(**given(inputs, step, extra))[0].clone())
    handle.remove()
    return outputs


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def skips(size: int = 8) -> list[tuple[int, int]]:
    """Channels and size of the skip connections, the input convolution's first."""
    half, quarter = -(-size // 2), -(-size // 4)
    return [(8, size)] * 3 + [(8, half)] + [(12, half)] * 2 + [(12, quarter)] + [(16, quarter)] * 2


def controlnet(step: int) -> dict[str, Any]:
    """Residuals for every skip connection and the middle block, other ones at every step."""
    made = [noise(2, c, s, s, seed=99 * step + n) for n, (c, s) in enumerate(skips())]
    middle = noise(2, 16, 2, 2, seed=99 * step + 50)
    return {"down_block_additional_residuals": made, "mid_block_additional_residual": middle}


def adapter(step: int) -> dict[str, Any]:
    """T2I features, one per level and one more that is added to the middle block's output."""
    shapes = [(8, 8), (12, 4), (16, 2), (16, 2)]
    made = [noise(2, c, s, s, seed=77 * step + n) for n, (c, s) in enumerate(shapes)]
    return {"down_intrablock_additional_residuals": made}


def nothing(step: int) -> dict[str, Any]:
    return {}


def odd(step: int) -> dict[str, Any]:
    """A size that upsampling has to be told."""
    return {"sample": noise(2, 4, 10, 10, seed=step)}


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at what stands in for a skipped module sees NaN."""
    make = deep_features.Blank.make
    monkeypatch.setattr(deep_features.Blank, "make", lambda blank: make(blank).fill_(torch.nan))


def check(model: nn.Module, inputs: Any, branch: int, extra: Extra, noticed: bool = False) -> None:
    """Every skipped step is the recomposed one.

    Where the model writes into the very feature, the first skip has to notice, and is a full step;
    from then on a copy is kept.
    """
    expected = recomposed(model, inputs, CUTS[branch], 2, extra)
    with autocache.patched(model, "deepcache", interval=2, branch=branch) as patch, torch.no_grad():
        found = [model(**given(inputs, n, extra))[0].clone() for n in range(len(TIMES))]
        actions = [step.action for step in patch.stats().steps]
    assert actions == ["computed", "computed" if noticed else "reused", "computed", "reused"]
    for step in (0, 2, 3) if noticed else range(4):
        assert torch.equal(found[step], expected[step])


@pytest.mark.parametrize("extra", [nothing, controlnet, adapter, odd])
@pytest.mark.parametrize("branch", range(9))
def test_only_the_feature_at_the_cut_is_old(branch: int, extra: Extra) -> None:
    """Bit for bit, with the residuals of a ControlNet and a T2I adapter: those of the layers that
    run are this step's, those deeper are in the feature."""
    model, inputs = build(UNET)
    check(model, inputs, branch, extra, noticed=extra is adapter and branch == 8)


def test_free_u() -> None:
    """FreeU scales, in place, what goes into the layers of the two innermost levels."""
    model: Any
    model, inputs = build(UNET)
    model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    for branch in range(9):
        check(model, inputs, branch, nothing, noticed=branch >= 3)


def test_another_rule_and_another_filling() -> None:
    """Deep features extrapolated, and skipped by how far the time embedding has moved."""
    model, inputs = build(UNET)
    parts = {"where": DeepFeatures(3), "how": Extrapolate(1)}
    with autocache.patched(model, when=Interval(2, start=0), **parts) as patch, torch.no_grad():
        for step in range(len(TIMES)):
            assert model(**given(inputs, step, nothing))[0].isfinite().all()
        assert [s.action for s in patch.stats().steps] == ["computed", "predicted"] * 2
    rule = Accumulated(Named("time_embedding"), threshold=1e9)
    with autocache.patched(model, when=rule, where=DeepFeatures()) as patch, torch.no_grad():
        for step in range(len(TIMES)):
            assert model(**given(inputs, step, nothing))[0].isfinite().all()
        assert [s.action for s in patch.stats().steps] == ["computed"] + ["reused"] * 3


def test_levels_whose_layers_share_a_skip_connection_are_refused() -> None:
    """K-diffusion's upscaler hands one skip connection to a whole block."""
    config = {
        "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D"),
        "up_block_types": ("KCrossAttnUpBlock2D", "KUpBlock2D"),
        "block_out_channels": (8, 8),
        "mid_block_type": None,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier",
        "norm_num_groups": None,
        "attention_head_dim": 4,
    }
    model, _ = build(UNET, **config)
    with pytest.raises(ParameterError, match="a skip connection of its own"):
        autocache.patch(model, "deepcache")


def test_without_a_middle_block_the_innermost_cut_is_missing() -> None:
    """There nothing would be left to skip."""
    model, inputs = build(UNET, mid_block_type=None)
    with pytest.raises(ParameterError, match=r"expected 0 \(fastest\) to 7"):
        autocache.patch(model, "deepcache", branch=8)
    for branch in range(8):
        check(model, inputs, branch, nothing)
