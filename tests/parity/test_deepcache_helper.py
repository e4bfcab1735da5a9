"""deepcache against the plug-in helper of DeepCache 0.1.1, step by step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from DeepCache import DeepCacheSDHelper
from pipelines.tiny_pipelines import make, run, stable_diffusion

import autocache

INTERVALS = {"sd": (2, 3, 5), "sdxl": (3,)}
STEPS = 6
BRANCHES = range(9)
"""Three levels of three up layers: every id that the helper and we both have."""


@dataclass
class Seen:
    """What the denoiser returned at each step, and the steps at which its middle block ran."""

    outputs: list[torch.Tensor] = field(default_factory=list)
    full: list[int] = field(default_factory=list)


@contextlib.contextmanager
def watched(pipe: Any) -> Iterator[Seen]:
    seen = Seen()
    handles = [
        pipe.unet.register_forward_hook(lambda _m, _a, out: seen.outputs.append(out[0].clone())),
        # Inside the block: the helper answers for the block itself.
        pipe.unet.mid_block.resnets[0].conv1.register_forward_hook(
            lambda *_: seen.full.append(len(seen.outputs))
        ),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def helped(pipe: Any, interval: int, branch: int) -> Iterator[DeepCacheSDHelper]:
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        yield helper
    finally:
        helper.disable()


def compare(pipe: Any, interval: int, theirs: int, ours: int, **options: Any) -> Seen:
    with helped(pipe, interval, theirs), watched(pipe) as helper:
        expected = run(pipe, guided=True, **options)
    with autocache.patched(pipe, "deepcache", interval=interval, branch=ours), watched(pipe) as own:
        latents = run(pipe, guided=True, **options)
    steps = range(len(own.outputs))
    assert len(helper.outputs) == len(steps) > interval
    assert own.full == helper.full == [step for step in steps if step % interval == 0]
    # The same operations on the same numbers: not a bit may differ.
    assert torch.equal(latents, expected)
    assert all(torch.equal(own.outputs[step], helper.outputs[step]) for step in steps)
    return own


@functools.cache
def plain(name: str) -> list[torch.Tensor]:
    pipe = make(name)
    with watched(pipe) as seen:
        run(pipe, guided=True, steps=STEPS)
    return seen.outputs


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_every_step_is_the_helpers(name: str, branch: int) -> None:
    """Same full steps, same prediction at every step and same latents, bit for bit."""
    pipe = make(name)
    for interval in INTERVALS[name]:
        cached = compare(pipe, interval, branch, branch, steps=STEPS).outputs
        assert torch.equal(cached[0], plain(name)[0])
        assert not torch.equal(cached[1], plain(name)[1])


def test_image_to_image_counts_from_its_own_first_step() -> None:
    """The first step of the shortened schedule is the full one."""
    pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(make("sd"))
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    compare(pipe, 3, 0, 0, steps=11, image=image, strength=0.65)


@pytest.mark.parametrize("layers", [1, 3])
def test_other_counts_of_layers_differ_only_in_the_ids(layers: int) -> None:
    """The helper takes every block to have three layers; our ids go on where a block ends."""
    pipe = stable_diffusion(layers_per_block=layers)
    pipe.set_progress_bar_config(disable=True)
    for level in range(3):
        for layer in range(min(3, layers + 1)):
            compare(pipe, 2, 3 * level + layer, (layers + 1) * level + layer, steps=4)


def test_the_helper_keeps_more() -> None:
    """It keeps the output of every wrapped module, we keep one of them."""
    pipe = make("sd")
    with helped(pipe, 3, 0) as helper:
        run(pipe, guided=True)
        leaves = torch.utils._pytree.tree_leaves(helper.cached_output)
        kept = {leaf.data_ptr(): leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor)}
    with autocache.patched(pipe, "deepcache") as patch:
        run(pipe, guided=True)
        assert sum(kept.values()) > 10 * patch.stats().bytes_peak > 0
