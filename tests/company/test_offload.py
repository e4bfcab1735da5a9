"""Offloading, by diffusers and by accelerate: the same pictures, the same skips, less to move."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from company.placing import (
    PLACEMENTS,
    TWO_MODELS,
    accelerator,
    away,
    blocks,
    moves,
    runs,
    take_back,
)
from pipelines import tiny_pipelines
from pipelines.tiny_pipelines import denoisers, make, run
from torch import nn

import autocache
import emulated
import tiny
from autocache import demo

STEPS = 6
STRATEGIES: dict[str, dict[str, Any]] = {
    "teacache": {"coefficients": (1.0, 0.0)},
    "dit_block": {"block_start": 0, "block_end": 1, "step_start": 0, "step_interval": 2},
    "attention": {"step_start": 0, "step_interval": 2},
}
"""One that looks at the first block before it runs, one that leaves out half of a pair of blocks,
and one that leaves out a part of each."""


@pytest.fixture(autouse=True)
def _on_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    device = accelerator()
    monkeypatch.setattr(tiny_pipelines, "DEVICE", device)
    if device == emulated.device():
        # Pinning is for a driver, and there is none.
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)


def _generate(pipe: Any) -> torch.Tensor:
    return run(pipe, steps=STEPS)


@functools.cache
def _plain(name: str) -> torch.Tensor:
    return _generate(make(name))


@functools.cache
def _expected(name: str, strategy: str) -> tuple[torch.Tensor, Any]:
    """The same strategy on a pipeline that is on the accelerator as a whole."""
    pipe = make(name)
    with autocache.patch(pipe, strategy, **_parameters(strategy)) as patch:
        return _generate(pipe), _actions(patch)


def _parameters(strategy: str) -> dict[str, Any]:
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    choice = tiny.choice(strategy)
    return {} if choice == strategy else dict(choice[1])


def _actions(patch: autocache.Patch, generation: int = 0) -> list[tuple]:
    done = [step for step in patch.stats().steps if step.generation == generation]
    return sorted((s.denoiser, s.step, s.branch, s.action) for s in done)


def _check(pipe: Any, patch: autocache.Patch, name: str, strategy: str, times: int = 3) -> None:
    expected, actions = _expected(name, strategy)
    first = patch.stats().generations // len(denoisers(pipe))
    for generation in range(first, first + times):
        assert torch.equal(_generate(pipe), expected), generation
        assert _actions(patch, generation) == actions, generation


def _cases() -> list[tuple[str, str, str]]:
    flux = [("flux", strategy, placement) for strategy in STRATEGIES for placement in PLACEMENTS]
    wan = [("wan", "teacache", placement) for placement in TWO_MODELS]
    return flux + wan


@pytest.mark.parametrize("first", ["patch", "placement"])
@pytest.mark.parametrize(("name", "strategy", "placement"), _cases())
def test_three_generations(
    name: str, strategy: str, placement: str, first: str, tmp_path: Path
) -> None:
    """Enabled before the patch or after it, offloading changes no picture and no skip; blocks are
    left out in each of three generations, as counted inside them."""
    pipe = make(name)
    if first == "placement":
        PLACEMENTS[placement](pipe, tmp_path)
    patch = autocache.patch(pipe, strategy, **STRATEGIES[strategy])
    if first == "patch":
        PLACEMENTS[placement](pipe, tmp_path)
    with runs(pipe.transformer) as counts:
        _check(pipe, patch, name, strategy)
    stats = patch.stats()
    assert stats.attention.share < 1
    if len(denoisers(pipe)) == 1:
        assert counts.total() == stats.blocks.run


EVERYWHERE = [
    s.name
    for s in autocache.strategies()
    if ("FluxTransformer2DModel", s.name) in tiny.pairs([s.name]) and s.name != "magcache"
]


@pytest.mark.parametrize("strategy", EVERYWHERE)
def test_every_strategy(strategy: str, tmp_path: Path) -> None:
    """What is left out of a pair of blocks that are moved together does no strategy harm."""
    pipe = make("flux")
    patch = autocache.patch(pipe, strategy, **_parameters(strategy))
    PLACEMENTS["pairs of blocks"](pipe, tmp_path)
    _check(pipe, patch, "flux", strategy, times=2)


@pytest.mark.parametrize("placement", ["model", "blocks", "pairs of blocks", "leaves"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_unets(name: str, placement: str, tmp_path: Path) -> None:
    """The inner levels of a UNet are left out of the groups that its blocks are moved in."""
    expected, actions = _deep(name)
    pipe = make(name)
    patch = autocache.patch(pipe, "deepcache", interval=3)
    PLACEMENTS[placement](pipe, tmp_path)
    for generation in range(2):
        assert torch.equal(_generate(pipe), expected)
        assert _actions(patch, generation) == actions
    assert patch.stats().blocks.share < 1


@functools.cache
def _deep(name: str) -> tuple[torch.Tensor, Any]:
    pipe = make(name)
    with autocache.patch(pipe, "deepcache", interval=3) as patch:
        return _generate(pipe), _actions(patch)


REVERSIBLE = ("model", "blocks", "sequential", "leaves ahead", "pairs of blocks")
"""diffusers has no way to bring back what it offloaded to the disk."""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_after_the_other(strategy: str, tmp_path: Path) -> None:
    """Each way of offloading is put on and taken off again between two generations, and the patch
    stays in place through all of them."""
    pipe = make("flux")
    patch = autocache.patch(pipe, strategy, **STRATEGIES[strategy])
    for nth, placement in enumerate(REVERSIBLE):
        _check(pipe, patch, "flux", strategy, times=1)
        PLACEMENTS[placement](pipe, tmp_path / str(nth))
        _check(pipe, patch, "flux", strategy, times=1)
        take_back(pipe)
    _check(pipe, patch, "flux", strategy, times=1)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("strategy", ["teacache", "attention"])
def test_unpatched_it_is_still_offloaded(strategy: str, placement: str, tmp_path: Path) -> None:
    """Off again, or there and not enabled, the patch leaves offloading as it would be without."""
    twin = make("flux")
    PLACEMENTS[placement](twin, tmp_path / "twin")
    _generate(twin)
    with moves(twin.transformer) as without:
        plain = _generate(twin)
    pipe = make("flux")
    patch = autocache.patch(pipe, strategy, **STRATEGIES[strategy])
    PLACEMENTS[placement](pipe, tmp_path)
    _generate(pipe)
    patch.enabled = False
    with moves(pipe.transformer) as disabled:
        assert torch.equal(_generate(pipe), plain)
    patch.unpatch()
    with moves(pipe.transformer) as unpatched:
        assert torch.equal(_generate(pipe), plain)
    assert disabled == unpatched == without
    assert placement == "model" or without.total() > 0
    assert placement == "model" or all(map(away, blocks(pipe.transformer).values()))


MOVED = ("sequential", "blocks", "leaves", "disk")


@pytest.mark.parametrize("placement", MOVED)
@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        ("dit_block", {"block_start": 1, "block_end": 5, "step_start": 0, "step_interval": 2}),
        ("fbcache", {"threshold": 0.5}),
        ("easycache", {"threshold": 0.5}),
        ("teacache", {"coefficients": (1.0, 0.0)}),
    ],
)
def test_what_is_skipped_is_not_moved(
    strategy: str, parameters: dict[str, Any], placement: str, tmp_path: Path
) -> None:
    """The weights of a block are moved as often as the block runs, and no more."""
    pipe = make("flux")
    PLACEMENTS[placement](pipe, tmp_path)
    model = pipe.transformer
    with moves(model) as before, runs(model) as ran:
        _generate(pipe)
    each = {name: before[name] // ran[name] for name in blocks(model)}
    assert all(each.values())
    assert before == Counter({name: each[name] * ran[name] for name in each})
    autocache.patch(pipe, strategy, **parameters)
    with moves(model) as moved, runs(model) as ran:
        _generate(pipe)
    assert ran.total() < STEPS * len(each)
    if strategy == "teacache":
        # What it measures is made by the first block's norm, in every step.
        looked_at = next(iter(each))
        assert moved.pop(looked_at) <= each[looked_at] * (ran.pop(looked_at) + STEPS)
    assert moved == Counter({name: each[name] * count for name, count in ran.items()})


@pytest.mark.parametrize("placement", ["sequential", "leaves"])
def test_attention_that_is_skipped_is_not_moved(placement: str, tmp_path: Path) -> None:
    """Where layers are moved one by one, a skipped attention leaves its own where they are."""
    pipe = make("flux")
    PLACEMENTS[placement](pipe, tmp_path)
    with moves(pipe.transformer) as plain:
        _generate(pipe)
    patch = autocache.patch(pipe, "attention", **STRATEGIES["attention"])
    with moves(pipe.transformer) as moved:
        _generate(pipe)
    inside = {
        name: sum(
            len(list(m.parameters(recurse=False))) > 0
            for m in block.get_submodule("attn").modules()
        )
        for name, block in blocks(pipe.transformer).items()
    }
    skipped = STEPS - patch.stats().attention.run // len(inside)
    assert skipped > 0
    assert moved == Counter({n: plain[n] - inside[n] * skipped for n in inside})


@pytest.mark.parametrize("placement", ["blocks", "pairs of blocks", "disk", "sequential"])
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("flux", "teacache"), ("flux", "dicache"), ("wan", "teacache"), ("wan", "adacache")],
)
def test_what_was_measured_goes_back(
    name: str, strategy: str, placement: str, tmp_path: Path
) -> None:
    """After every call, a skipped one too, no block's weights are left on the accelerator."""
    pipe = make(name)
    if name == "wan":
        pipe.register_modules(transformer_2=None)
        pipe.register_to_config(boundary_ratio=None)
    patch = autocache.patch(pipe, strategy, **_parameters(strategy))
    PLACEMENTS[placement](pipe, tmp_path)
    left: list[str] = []

    def look(*_: Any) -> None:
        left.extend(n for n, block in blocks(pipe.transformer).items() if not away(block))

    pipe.transformer.register_forward_hook(look)
    _generate(pipe)
    assert left == []
    if strategy == "teacache":
        assert patch.stats().blocks.share < 1


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "WanTransformer3DModel"])
def test_probes_in_blocks_that_accelerate_moves_as_a_whole(name: str) -> None:
    """Blocks whose weights accelerate loads at once are measured with their weights there, and
    without them afterwards."""
    device = accelerator()

    def generate(model: nn.Module, given: Any) -> torch.Tensor:
        scale = 1.0 if hasattr(model, "single_transformer_blocks") else 1000.0
        results = []
        for time in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
            inputs = {
                k: v.to(device) if isinstance(v, torch.Tensor) else v
                for k, v in given(time * scale).items()
            }
            with torch.no_grad():
                results.append(model(**inputs)[0])
        return torch.stack(results)

    model, given = tiny.build(name)
    model.to(device)
    with autocache.patch(model, "teacache", coefficients=(1.0, 0.0)) as patch:
        expected, blocks_run = generate(model, given), patch.stats().blocks
    model.to("cpu")
    classes = sorted({type(block).__name__ for block in blocks(model).values()})
    cpu_offload(model, execution_device=device, preload_module_classes=classes)
    patch = autocache.patch(model, "teacache", coefficients=(1.0, 0.0))
    for _ in range(3):
        assert torch.equal(generate(model, given), expected)
        assert all(
            weight.is_meta for block in blocks(model).values() for weight in block.parameters()
        )
    assert patch.stats().blocks.run == 3 * blocks_run.run < 3 * blocks_run.total


SCRIPT = """
import sys
import torch
from diffusers import FluxPipeline

pipe = FluxPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)

def draw():
    noise = torch.Generator().manual_seed(0)
    made = pipe("a small solid red circle", height=64, width=64, num_inference_steps=6,
                max_sequence_length=24, generator=noise, output_type="pt")
    return made.images

first = draw()
pipe.enable_model_cpu_offload(device="cpu")
assert torch.equal(draw(), first) and torch.equal(draw(), first)
pipe.remove_all_hooks()
pipe.enable_group_offload(onload_device=torch.device("cpu"), num_blocks_per_group=2)
assert torch.equal(draw(), first)
"""
"""It knows nothing of autocache, and accelerate's and diffusers' hooks run on the CPU as well."""


def test_a_script_that_offloads_after_the_environment_patched(tmp_path: Path) -> None:
    """Under `AUTOCACHE=`, a script that enables offloading after its pipeline is made, and changes
    it, draws the same picture and skips the same in every generation."""
    record = tmp_path / "stats.json"
    strategy = "dit_block:step_start=0,step_interval=2"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, demo.path("shapes")],
        env={**plain, "AUTOCACHE": strategy, "AUTOCACHE_STATS": str(record)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (patched,) = json.loads(record.read_text())
    steps = patched["steps"]
    actions = [step["action"] for step in steps]
    assert len(actions) == 4 * 6
    assert actions == actions[:6] * 4
    assert "reused" in actions
