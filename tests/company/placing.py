"""Ways to place a pipeline's weights, and what of them is moved when it runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.hooks.hooks import HookRegistry
from pipelines.tiny_pipelines import FEED_FORWARD
from torch import nn

import emulated
from devices import DEVICE

GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def accelerator(index: int = 0) -> torch.device:
    """The device that the tests run on; in place of the CPU, the emulated one."""
    if DEVICE.type != "cpu" and emulated.device() != DEVICE:
        return torch.device(DEVICE.type, index)
    return emulated.device(index)


def _grouped(pipe: Any, **options: Any) -> None:
    pipe.enable_group_offload(onload_device=accelerator(), **options)


def _in_blocks(pipe: Any, folder: Path) -> None:
    _grouped(pipe, offload_type="block_level", num_blocks_per_group=1)


def _in_pairs(pipe: Any, folder: Path) -> None:
    _grouped(pipe, offload_type="block_level", num_blocks_per_group=2)


def _in_leaves(pipe: Any, folder: Path) -> None:
    _grouped(pipe, offload_type="leaf_level")


def _in_blocks_ahead(pipe: Any, folder: Path) -> None:
    _grouped(pipe, offload_type="block_level", num_blocks_per_group=1, use_stream=True)


def _in_leaves_ahead(pipe: Any, folder: Path) -> None:
    _grouped(pipe, offload_type="leaf_level", use_stream=True)


def _on_disk(pipe: Any, folder: Path) -> None:
    _grouped(
        pipe,
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(folder),
    )


def _whole(pipe: Any, folder: Path) -> None:
    pipe.enable_model_cpu_offload(device=accelerator())


def _one_by_one(pipe: Any, folder: Path) -> None:
    pipe.enable_sequential_cpu_offload(device=accelerator())


PLACEMENTS: dict[str, Callable[[Any, Path], None]] = {
    "model": _whole,
    "sequential": _one_by_one,
    "blocks": _in_blocks,
    "pairs of blocks": _in_pairs,
    "leaves": _in_leaves,
    "disk": _on_disk,
    "blocks ahead": _in_blocks_ahead,
    "leaves ahead": _in_leaves_ahead,
}
"""Those that load ahead do so in a stream of their own, in which a copy is made while other work
goes on; the emulated accelerator makes it when it is waited for."""

TWO_MODELS = tuple(name for name in PLACEMENTS if name != "disk")
"""diffusers names files on the disk by their place in a model, and two models get the same ones."""


def take_back(pipe: Any) -> None:
    """Take every placement off again; the pipeline is on the accelerator as a whole."""
    pipe.remove_all_hooks()
    for model in pipe.components.values():
        if isinstance(model, nn.Module):
            registry = HookRegistry.check_if_exists_or_initialize(model)
            for name in GROUP_HOOKS:
                registry.remove_hook(name, recurse=True)
    pipe.to(accelerator())


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a denoiser by their paths, found by hand."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in FEED_FORWARD and "refiner" not in name
    }


@contextlib.contextmanager
def runs(model: nn.Module) -> Iterator[Counter[str]]:
    """How often each block ran, counted inside it."""
    counts: Counter[str] = Counter()
    handles = []
    for name, block in blocks(model).items():

        def hook(*_: Any, name: str = name) -> None:
            counts[name] += 1

        inside = block.get_submodule(FEED_FORWARD[type(block).__name__])
        handles.append(inside.register_forward_hook(hook))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def moves(model: nn.Module) -> Iterator[Counter[str]]:
    """How many modules of each block had their weights brought, by either library."""
    owner = {id(m): name for name, block in blocks(model).items() for m in block.modules()}
    counts: Counter[str] = Counter()
    onload, align = ModuleGroup.onload_, AlignDevicesHook.pre_forward

    def onloaded(group: ModuleGroup) -> None:
        parents = [] if group.modules else [group.onload_leader]
        counts.update(owner[id(m)] for m in (*group.modules, *parents) if id(m) in owner)
        onload(group)

    def aligned(hook: AlignDevicesHook, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if hook.offload and id(module) in owner:
            counts[owner[id(module)]] += 1
        return align(hook, module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModuleGroup, "onload_", onloaded)
        patched.setattr(AlignDevicesHook, "pre_forward", aligned)
        yield counts


def away(module: nn.Module) -> bool:
    """Whether no weight of a module is on the accelerator."""
    return all(weight.device.type in ("cpu", "meta") for weight in module.parameters())
