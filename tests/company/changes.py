"""Everything but caching that users do to a model or pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from company.subjects import fresh, is_bare
from peft import LoraConfig
from pipelines.tiny_pipelines import denoisers
from torch import nn

from devices import DEVICE


@dataclass(frozen=True)
class Change:
    """Something done to a target that may change what it makes, and when it can be done.

    `needs` and `without` are tags of what was done before; `adds` and `removes` say what is then.
    """

    act: Callable[[Any], None]
    needs: frozenset[str] = field(default=frozenset())
    without: frozenset[str] = field(default=frozenset())
    adds: frozenset[str] = field(default=frozenset())
    removes: frozenset[str] = field(default=frozenset())
    exact: bool = False
    """It changes nothing of what is made."""
    only: Callable[[str], bool] = lambda kind: True
    """The kinds it can be done to."""

    def fits(self, kind: str, tags: frozenset[str]) -> bool:
        return self.only(kind) and self.needs <= tags and not self.without & tags


def _each(act: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The same on every denoiser."""

    def on(target: Any) -> None:
        for model in denoisers(target):
            act(model)

    return on


def _lora(name: str, seed: int) -> Callable[[Any], None]:
    """Load an adapter whose weights are the same every time and not without effect."""

    def on(model: Any) -> None:
        places = ["to_q", "to_out.0", "proj_mlp", "net.0.proj", "proj_in"]
        model.add_adapter(LoraConfig(r=2, target_modules=places), name)
        random = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if f".{name}." in path:
                drawn = torch.randn(weight.shape, generator=random) * 0.2
                weight.data.copy_(drawn.to(weight))
        model.requires_grad_(False)

    return _each(on)


def _scheduler(name: str, **config: Any) -> Callable[[Any], None]:
    """Another scheduler in the place of the pipeline's, made from its configuration."""

    def on(pipe: Any) -> None:
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **config)

    return on


def _hooks_on_blocks(model: nn.Module) -> None:
    """A hook of accelerate's on blocks and attention, which replaces their forward."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("Block") or name.endswith(("attn", "attn1")):
            add_hook_to_module(module, AlignDevicesHook(DEVICE, io_same_device=True))


def _offload(target: Any) -> None:
    modules = [target] if is_bare(target) else target.components.values()
    for module in modules:
        if isinstance(module, nn.Module):
            cpu_offload(module, execution_device=torch.device(DEVICE))


def _take_hooks_off(target: Any) -> None:
    modules = [target] if is_bare(target) else target.components.values()
    for module in modules:
        if isinstance(module, nn.Module):
            remove_hook_from_submodules(module)


def _offload_groups(model: Any) -> None:
    model.enable_group_offload(
        torch.device(DEVICE), offload_type="block_level", num_blocks_per_group=1
    )


def _take_groups_off(model: nn.Module) -> None:
    for module in model.modules():
        registry: Any = vars(module).get("_diffusers_hook")
        for name in list(registry._hook_order) if registry else ():
            registry.remove_hook(name, recurse=False)


def _kind(*kinds: str) -> Callable[[str], bool]:
    return lambda kind: kind in kinds


def _tags(text: str) -> frozenset[str]:
    return frozenset(text.split())


OFFLOADED = _tags("hooks offload groups")

CHANGES: dict[str, Change] = {
    "lora": Change(
        _lora("one", 1), without=_tags("one fused") | OFFLOADED, adds=_tags("one loaded")
    ),
    "another lora": Change(
        _lora("two", 2), _tags("one"), _tags("two merged") | OFFLOADED, _tags("two")
    ),
    "first lora": Change(
        _each(lambda m: m.set_adapters("one", 0.5)), _tags("one"), _tags("merged")
    ),
    "both loras": Change(
        _each(lambda m: m.set_adapters(["one", "two"], [0.5, 0.8])),
        _tags("one two"),
        _tags("merged"),
    ),
    "lora off": Change(_each(lambda m: m.disable_lora()), _tags("one"), _tags("merged")),
    "lora on": Change(_each(lambda m: m.enable_lora()), _tags("one"), _tags("merged")),
    "fuse lora": Change(
        _each(lambda m: m.fuse_lora()), _tags("one"), _tags("merged") | OFFLOADED, _tags("merged")
    ),
    "unfuse lora": Change(
        _each(lambda m: m.unfuse_lora()), _tags("merged"), OFFLOADED, removes=_tags("merged")
    ),
    "unload lora": Change(
        _each(lambda m: m.unload_lora()),
        _tags("one"),
        _tags("merged") | OFFLOADED,
        removes=_tags("one two"),
    ),
    "fuse qkv": Change(
        _each(lambda m: m.fuse_qkv_projections()),
        without=_tags("one fused") | OFFLOADED,
        adds=_tags("fused"),
    ),
    "unfuse qkv": Change(
        _each(lambda m: m.unfuse_qkv_projections()),
        _tags("fused"),
        OFFLOADED,
        removes=_tags("fused"),
    ),
    "bfloat16": Change(
        lambda t: t.to(torch.bfloat16), without=_tags("merged bf16") | OFFLOADED, adds=_tags("bf16")
    ),
    "float32": Change(
        lambda t: t.to(torch.float32),
        _tags("bf16"),
        _tags("merged") | OFFLOADED,
        removes=_tags("bf16"),
    ),
    "channels last": Change(
        _each(lambda m: m.to(memory_format=torch.channels_last)),
        without=OFFLOADED,
        only=_kind("sd", "bare unet"),
    ),
    "heun": Change(_scheduler("FlowMatchHeunDiscreteScheduler"), only=_kind("wan")),
    "unipc flow": Change(
        _scheduler(
            "UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
        only=_kind("wan"),
    ),
    "euler": Change(_scheduler("FlowMatchEulerDiscreteScheduler"), only=_kind("flux", "wan")),
    "shifted": Change(
        _scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0), only=_kind("flux", "wan")
    ),
    "unipc": Change(_scheduler("UniPCMultistepScheduler"), only=_kind("sd")),
    "ddim": Change(_scheduler("DDIMScheduler"), only=_kind("sd")),
    "euler ancestral": Change(_scheduler("EulerAncestralDiscreteScheduler"), only=_kind("sd")),
    "hooks": Change(_each(_hooks_on_blocks), without=OFFLOADED, adds=_tags("hooks"), exact=True),
    "offload": Change(_offload, without=OFFLOADED, adds=_tags("offload"), exact=True),
    "no hooks": Change(_take_hooks_off, _tags("hooks"), removes=_tags("hooks"), exact=True),
    "no offload": Change(_take_hooks_off, _tags("offload"), removes=_tags("offload"), exact=True),
    "groups": Change(_each(_offload_groups), without=OFFLOADED, adds=_tags("groups"), exact=True),
    "no groups": Change(
        _each(_take_groups_off), _tags("groups"), removes=_tags("groups"), exact=True
    ),
}


def tags_after(log: tuple[str, ...]) -> frozenset[str]:
    tags: frozenset[str] = frozenset()
    for name in log:
        tags = tags - CHANGES[name].removes | CHANGES[name].adds
    return tags


def changed(kind: str, log: tuple[str, ...]) -> Any:
    """A fresh one to which all that was done."""
    target = fresh(kind)
    for name in log:
        CHANGES[name].act(target)
    return target
