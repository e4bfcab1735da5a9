"""Strategies put together from the public parts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.errors import ParameterError

FLUX = "FluxTransformer2DModel"


def test_the_parts_are_attributes_and_torch_stays_out():
    """`import autocache` is free; the parts come with their first use."""
    code = (
        "import sys, autocache\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'when', 'where', 'how', 'probe'} <= set(dir(autocache)) & set(autocache.__all__)\n"
        "autocache.when.Interval, autocache.where.Blocks, autocache.how.Extrapolate\n"
        "autocache.probe.Named\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def _loop(model: nn.Module, inputs, steps: int = 8) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(**inputs(0.9 - 0.1 * step))[0] for step in range(steps)])


def test_a_named_strategy_can_be_rebuilt_from_its_parts():
    """`dit_block` is an interval, a range of blocks and reuse; so is this."""
    model, inputs = tiny.build(FLUX)
    with autocache.patched(model, "dit_block", step_start=0, step_interval=3, blocks=(1, 5)):
        expected = _loop(model, inputs)
    when = autocache.when.Interval(3, start=0)
    with autocache.patched(model, when=when, where=autocache.where.Blocks((1, 5))) as patch:
        assert torch.equal(_loop(model, inputs), expected)
        assert patch.strategy.name == "custom"
        assert "Interval(interval=3" in patch.stats().parameters["when"]


def test_a_combination_nobody_published():
    """Extrapolated residuals on a schedule, within limits of one's own."""
    model, inputs = tiny.build(FLUX)
    parts = {
        "when": autocache.when.Interval(3),
        "where": autocache.where.Blocks(),
        "how": autocache.how.Extrapolate(1),
    }
    with autocache.patched(model, **parts, warmup_steps=4) as patch:
        _loop(model, inputs)
        drawn = "".join(step.action[0] for step in patch.stats().steps)
    # The third step would be the first to skip, and was not allowed to.
    assert drawn[:4] == "cccc"
    assert {"c", "p"} == set(drawn)


def test_a_probe_of_ones_own():
    """Rules take any probe, and parts compose with named strategies' options."""
    model, inputs = tiny.build(FLUX)
    when = autocache.when.Accumulated(autocache.probe.FirstBlocks(1), threshold=10.0)
    where = autocache.where.Blocks({"single_transformer_blocks": (0, 3)})
    with autocache.patched(model, when=when, where=where, last_steps=1) as patch:
        _loop(model, inputs)
        assert {s.blocks_skipped for s in patch.stats().steps} == {0, 3}


class Foreign(nn.Module):
    def forward(self, x, t):
        return torch.sin(x) * t


def test_whole_calls_need_no_spec():
    """Parts that look at nothing inside the model go with any model."""
    where = autocache.where.Denoiser()
    how = autocache.how.Extrapolate(1, basis="newton")
    model, x = Foreign(), torch.ones(1, 3)
    with autocache.patched(model, when=autocache.when.Interval(2), where=where, how=how) as patch:
        for step in range(6):
            x = x - 0.1 * model(x, 1 - step / 6)
        assert patch.stats().denoiser.share < 1
    with pytest.raises(autocache.errors.UnknownModelError):
        autocache.patch(model, when=autocache.when.Interval(2))
    probe = autocache.when.Accumulated(autocache.probe.FirstBlocks(1), threshold=1.0)
    with pytest.raises(autocache.errors.UnknownModelError):
        autocache.patch(model, when=probe, where=where)


def test_timesteps_are_a_part_too():
    """What arranges the scheduler is a place like any other."""
    pipe = make("wan")
    parts = {"when": autocache.when.Always(), "where": autocache.where.Timesteps(steps=4)}
    with autocache.patched(pipe, **parts):
        assert torch.equal(run(pipe, steps=9), run(make("wan"), steps=4))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"where": autocache.where.Blocks()}, "needs when="),
        ({"when": 3}, "custom: when=3 is wrong: .* instance of When"),
        ({"when": autocache.where.Blocks()}, "when=Blocks.* instance of When"),
        ({"when": autocache.when.Interval}, "instance of When"),
        ({"when": autocache.when.Interval(2), "how": "reuse"}, "how='reuse' .* instance of How"),
        ({"when": autocache.when.Interval(2), "strategy": "teacache"}, "not both"),
        ({"when": autocache.when.Interval(2), "threshold": 1}, "custom has no parameter 'thres"),
    ],
)
def test_wrong_parts(parts, message):
    """What is no such part is named, with what was expected."""
    model, _ = tiny.build(FLUX)
    with pytest.raises(ParameterError, match=message):
        autocache.patch(model, **parts)
    assert not autocache.is_patched(model)
