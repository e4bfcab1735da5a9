"""DeepCache on the UNets of Stable Diffusion and SDXL."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
from autocache.errors import ParameterError
from autocache.when import Centred
from tiny import build

UNET = "UNet2DConditionModel"
TIMES = [900.0, 750.0, 600.0, 450.0, 300.0, 150.0]


def loop(model: nn.Module, inputs: Any, times: list[float] = TIMES) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(**inputs(time))[0].clone() for time in times]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def drawn(patch: autocache.Patch) -> str:
    return "".join("C" if s.action == "computed" else "r" for s in patch.stats().steps)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_an_interval_of_one_is_the_plain_pipeline(name: str, guided: bool) -> None:
    """Nothing is skipped and nothing kept, and no bit differs."""
    pipe = make(name)
    plain = run(pipe, guided=guided)
    for options in ({"interval": 1}, {"dry_run": True}, {"enabled": False}):
        with autocache.patched(pipe, "deepcache", **options) as patch:
            assert torch.equal(run(pipe, guided=guided), plain)
            assert patch.stats().blocks.share == 1.0
    with autocache.patched(pipe, "deepcache", interval=1) as patch:
        run(pipe, guided=guided)
        assert patch.stats().bytes_peak == 0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, "CrrCrr"),
        ({"interval": 2}, "CrCrCr"),
        ({"interval": 5}, "CrrrrC"),
        ({"interval": 4, "warmup_steps": 3}, "CCCrCr"),
        ({"interval": 6, "max_consecutive_skips": 2}, "CrrCrr"),
        ({"interval": 6, "step_window": (2, 3)}, "CCrrCC"),
    ],
)
def test_which_steps_are_full(options: dict[str, Any], steps: str) -> None:
    """The first step and every `interval`-th, within the limits of every strategy."""
    model, inputs = build(UNET)
    with autocache.patched(model, "deepcache", **options) as patch:
        loop(model, inputs)
        assert drawn(patch) == steps


@pytest.mark.parametrize("signed", [False, True])
def test_the_centred_schedule(signed: bool) -> None:
    """The full steps are those of the rule, for the steps the scheduler announced."""
    pipe = make("sd")
    options = {"schedule": "centred", "center": 15, "signed_power": signed}
    with autocache.patched(pipe, "deepcache", interval=5, **options) as patch:
        run(pipe, steps=50)
        full = tuple(n for n, letter in enumerate(drawn(patch)) if letter == "C")
    assert full == Centred(5, 15, signed=signed).steps(50)


def test_the_centred_schedule_is_uniform_in_a_bare_loop() -> None:
    """Nobody says how many steps there are going to be."""
    model, inputs = build(UNET)
    with autocache.patched(model, "deepcache", schedule="centred", interval=3) as patch:
        loop(model, inputs)
        assert drawn(patch) == "CrrCrr"


@pytest.mark.parametrize("branch", range(9))
def test_memory_is_one_feature_map(branch: int) -> None:
    """Whatever the cut, what is kept is the tensor that comes out of the inner part."""
    model, inputs = build(UNET)
    # Channels and size of what enters layer `branch` of the up path, counted from its end.
    channels, size = [
        (8, 8),
        (8, 8),
        (12, 8),
        (12, 4),
        (12, 4),
        (16, 4),
        (16, 2),
        (16, 2),
        (16, 2),
    ][branch]
    with autocache.patched(model, "deepcache", branch=branch) as patch:
        loop(model, inputs)
        stats = patch.stats()
    assert stats.bytes_peak == stats.bytes_held == 2 * channels * size * size * 4
    assert [len(step.sites) for step in stats.steps] == [1] * len(TIMES)


def test_what_runs_on_a_skipped_step() -> None:
    """At branch 0 only the last layer does; at branch 4 half of the middle level does too."""
    model, inputs = build(UNET)
    ran: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ in ("ResnetBlock2D", "Transformer2DModel", "Conv2d"):
            outer = not any(part in name for part in ("resnets", "attentions", "samplers"))
            if outer or type(module).__name__ != "Conv2d":
                module.register_forward_hook(lambda *_, name=name: ran.append(name))

    def second(branch: int) -> list[str]:
        with autocache.patched(model, "deepcache", branch=branch):
            loop(model, inputs, TIMES[:1])
            ran.clear()
            loop(model, inputs, TIMES[1:2])
        return ran

    last = ["up_blocks.2.resnets.2", "up_blocks.2.attentions.2"]
    assert second(0) == ["conv_in", *last, "conv_out"]
    outer = [f"down_blocks.0.{kind}.{n}" for n in (0, 1) for kind in ("resnets", "attentions")]
    inner = ["down_blocks.1.resnets.0", "down_blocks.1.attentions.0"]
    inner += [f"up_blocks.1.{kind}.{n}" for n in (1, 2) for kind in ("resnets", "attentions")]
    top = [f"up_blocks.2.{kind}.{n}" for n in range(3) for kind in ("resnets", "attentions")]
    assert second(4) == ["conv_in", *outer, *inner, *top, "conv_out"]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_second_generation_repeats_the_first(name: str) -> None:
    """Nothing of one generation reaches the next, also where its size differs."""
    pipe = make(name)
    with autocache.patched(pipe, "deepcache") as patch:
        first = run(pipe, guided=True)
        run(pipe, guided=True, size=16, batch=2)
        assert torch.equal(run(pipe, guided=True), first)
        assert patch.stats().bytes_held == 0
        assert {step.branch for step in patch.stats().steps} == {"0"}


def test_branches_that_are_called_one_by_one_do_not_mix() -> None:
    """Two calls per step give what each guidance branch gives alone."""
    model, inputs = build(UNET)
    _, others = build(UNET, seed=3)
    with autocache.patched(model, "deepcache"):
        alone = loop(model, inputs)
    with autocache.patched(model, "deepcache"):
        alone_other = loop(model, others)
    with autocache.patched(model, "deepcache") as patch, torch.no_grad():
        both = [(model(**inputs(t))[0].clone(), model(**others(t))[0].clone()) for t in TIMES]
        assert patch.stats().bytes_peak == 2 * (2 * 8 * 8 * 8 * 4)
    assert same([one for one, _ in both], alone)
    assert same([other for _, other in both], alone_other)


def test_a_dry_run_is_plain_and_tells_the_error() -> None:
    """The error is that of the feature map at the cut."""
    model, inputs = build(UNET)
    plain = loop(model, inputs)
    with autocache.patched(model, "deepcache", interval=2, dry_run=True) as patch:
        assert same(loop(model, inputs), plain)
        steps = patch.stats().steps
    assert [step.action for step in steps] == ["computed", "reused"] * 3
    assert all((step.error or 0) > 0 for step in steps[1::2])
    assert all(step.error is None for step in steps[::2])


def test_the_stats_count_layers_and_attention() -> None:
    """A UNet's blocks are the layers of its levels."""
    model, inputs = build(UNET)
    with autocache.patched(model, "deepcache", interval=2) as patch:
        loop(model, inputs)
        stats = patch.stats()
    # 17 resnets and 11 transformers, of which the last of each run on a skipped step.
    assert (stats.blocks.total, stats.blocks.run) == (6 * 28, 3 * 28 + 3 * 2)
    assert (stats.attention.total, stats.attention.run) == (6 * 22, 3 * 22 + 3 * 2)
    assert re.search(r"block calls run +90 of 168 ", str(stats))


WRONG = [
    ({"branch": 9}, "branch=9 .* 9 to cut at; expected 0 .fastest. to 8"),
    ({"blocks": (0, 2)}, "acts on no blocks"),
    ({"power": 1.0}, "power"),
    ({"center": 3}, "center: only with schedule='centred'"),
    ({"brunch": 1}, "did you mean 'branch'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    """Each is named with what was expected, and the model is left plain."""
    model, _ = build(UNET)
    with pytest.raises(ParameterError, match=message):
        autocache.patch(model, "deepcache", **options)
    assert not autocache.is_patched(model)


def test_a_transformer_is_told_what_applies_to_it() -> None:
    """deepcache has nothing to cut where there are no levels."""
    model, _ = build("WanTransformer3DModel")
    with pytest.raises(ParameterError, match=r"has no UNet levels.*dit_block.*attention"):
        autocache.patch(model, "deepcache")


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "seacache"])
def test_a_unet_is_told_what_applies_to_it(strategy: str) -> None:
    """A strategy that skips block stacks names those that need none."""
    model, _ = build(UNET)
    with pytest.raises(ParameterError, match=r"UNet2DConditionModel has no stack.*deepcache"):
        autocache.patch(model, strategy)


@pytest.mark.parametrize("strategy", ["attention", "fora", "pab", "taylorseer"])
def test_strategies_on_submodules_take_a_unet(strategy: str) -> None:
    """They find attention and feed-forward by the patterns of the spec."""
    pipe = make("sd")
    plain = run(pipe, guided=True)
    with autocache.patched(pipe, strategy) as patch:
        assert not torch.equal(run(pipe, guided=True), plain)
        stats = patch.stats()
    assert stats.attention.share < 1.0 == stats.blocks.share
    assert torch.equal(run(pipe, guided=True), plain)
