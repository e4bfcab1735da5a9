"""Scenarios with the weights spread over the processes by FSDP2, each process its own prompt."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from company.parallel_runs import (
    DBCACHE,
    FIXED,
    FLUX,
    LATENT,
    READING,
    STEPS,
    TEACACHE,
    WAN,
    Choice,
    Silence,
    counted,
    generate,
    latent,
    ran,
)
from pipelines.tiny_pipelines import denoisers, make, run
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

import autocache
import tiny
from autocache.how import Reuse
from autocache.when import Mask
from autocache.where import Blocks
from devices import DEVICE

STACKS = {FLUX: ("transformer_blocks", "single_transformer_blocks"), WAN: ("blocks",)}

CHOICES: dict[str, tuple[str, Choice]] = {
    **{key: (FLUX, choice) for key, choice in {**READING[FLUX], **FIXED}.items()},
    "wan teacache": (WAN, TEACACHE),
    "wan dbcache": (WAN, DBCACHE),
    "wan seacache": (WAN, READING[WAN]["seacache"]),
    "wan invariant": (WAN, ("invariant", {})),
}
LIMIT = 30_000
"""Bytes: enough for what the smaller size keeps, and not for the larger one."""
TIGHT = 16_000
"""Enough for some of what the smaller size keeps."""
INSIDE = ("fora", "pab", "wan invariant")
"""Those that skip nothing but parts of blocks, so no process waits for another one's decision."""


def sharded(
    name: str, model: nn.Module, each_attention: bool = False, mesh: DeviceMesh | None = None
) -> nn.Module:
    """Every block a unit of its own, and the rest another."""
    mesh = mesh or init_device_mesh(DEVICE.type, (2,))
    for stack in STACKS[name]:
        for block in model.get_submodule(stack):
            if each_attention:
                for kind in ("attn", "attn1", "attn2"):
                    if hasattr(block, kind):
                        fully_shard(getattr(block, kind), mesh=mesh)
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def fetches(name: str, model: nn.Module, inputs: Any, seed: int) -> dict[str, Any]:
    """A generation, and how often weights were fetched for a part of the model."""
    with Silence() as silence:
        found = ran(name, model, inputs, seed)
    return {**found, "fetches": silence.weights, "exchanges": silence.exchanges}


def classes(name: str, model: nn.Module) -> list[list[str]]:
    """What each block is, by the names of its classes."""
    return [
        [cls.__name__ for cls in type(block).__mro__ if cls.__module__ != "builtins"]
        for stack in STACKS[name]
        for block in model.get_submodule(stack)
    ]


def weights() -> dict[str, Any]:
    rank = dist.get_rank()
    found: dict[str, Any] = {}
    for name in STACKS:
        model, inputs = tiny.build(name)
        sharded(name, model)
        found[f"{name} plain"] = {
            **fetches(name, model, inputs, rank),
            "classes": classes(name, model),
        }
    for key, (name, (strategy, params)) in CHOICES.items():
        for order in ("before", "after"):
            model, inputs = tiny.build(name)
            if order == "after":
                sharded(name, model)
            patch = autocache.patch(model, strategy, **params)
            if order == "before":
                sharded(name, model)
            one = fetches(name, model, inputs, rank)
            one["same prompt"] = ran(name, model, inputs, 0)
            patch.unpatch()
            one["classes"] = classes(name, model)
            one["units"] = all(
                isinstance(b, FSDPModule) for b in model.get_submodule(STACKS[name][0])
            )
            one["unpatched"] = generate(name, model, inputs, rank)
            found[f"{key} {order}"] = one
    return found


def weights_more() -> dict[str, Any]:
    """Orders, sizes and failures."""
    rank = dist.get_rank()
    found: dict[str, Any] = {}
    # Off.
    model, inputs = tiny.build(FLUX)
    autocache.patch(sharded(FLUX, model), "fbcache", enabled=False)
    found["off"] = ran(FLUX, model, inputs, rank)
    # A generation between patching and sharding, and each strategy in turn on one model.
    model, inputs = tiny.build(FLUX)
    autocache.patch(model, "fbcache", **READING[FLUX]["fbcache"][1])
    generate(FLUX, model, inputs, rank)
    sharded(FLUX, model)
    found["between"] = ran(FLUX, model, inputs, rank)
    autocache.patch(model, "dbcache", **READING[FLUX]["dbcache"][1])
    found["replaced"] = ran(FLUX, model, inputs, rank)
    # Every attention module a unit of its own.
    for name, choice in ((FLUX, FIXED["fora"]), (WAN, ("invariant", {})), (FLUX, FIXED["pab"])):
        model, inputs = tiny.build(name)
        autocache.patch(sharded(name, model, each_attention=True), choice[0], **choice[1])
        found[f"{choice[0]} in units"] = fetches(name, model, inputs, rank)
    # Another size on each rank.
    model, inputs = tiny.build(WAN)
    autocache.patch(sharded(WAN, model), "fbcache", **READING[WAN]["fbcache"][1])

    def sized(time: float) -> dict[str, Any]:
        given = inputs(time)
        return {**given, LATENT: given[LATENT].repeat(1, 1, 1, 1, 1 + rank)}

    found["sizes"] = ran(WAN, model, sized, rank)
    for case, limit, given in (("limited", LIMIT, sized), ("limited alike", TIGHT, inputs)):
        model, _ = tiny.build(WAN)
        sharded(WAN, model, each_attention=True)
        patch = autocache.patch(model, "fora", memory_limit=limit, memory_fit="fewer")
        found[case] = {**ran(WAN, model, given, rank), "peak": patch.stats().bytes_peak}
    found["fault"] = _fault(rank)
    found["schedules"] = _unlike(rank)
    return found


PIPELINES = [
    (pipeline, strategy)
    for pipeline in ("wan", "cogvideox")
    for strategy in ("fastercache", "dbcache", "auto", "taylorseer")
]
"""With a call for each guidance branch and two experts, and with both branches in a batch."""


def pipelines() -> dict[str, Any]:
    """Guided generations of whole pipelines, each process its own prompt."""
    found = {}
    for kind, strategy in PIPELINES:
        pipe = make(kind)
        autocache.patch(pipe, strategy)
        for model in denoisers(pipe):
            stack = getattr(model, "blocks", None) or model.transformer_blocks
            for block in stack:
                fully_shard(block, mesh=init_device_mesh(DEVICE.type, (2,)))
            fully_shard(model, mesh=init_device_mesh(DEVICE.type, (2,)))
        with counted_blocks(pipe) as counts:
            result = run(pipe, steps=12, guided=True, seed=dist.get_rank())
        steps = autocache.stats(pipe).steps
        actions = [(s.denoiser, s.branch, s.step, s.blocks_skipped) for s in steps]
        found[f"{kind} {strategy}"] = {"result": result, "steps": actions, **counts}
    return found


@contextlib.contextmanager
def counted_blocks(pipe: Any) -> Iterator[Counter[str]]:
    with contextlib.ExitStack() as entered:
        every = [entered.enter_context(counted(model)) for model in denoisers(pipe)]
        counts: Counter[str] = Counter()
        yield counts
        for one in every:
            counts.update(one)


def _fault(rank: int) -> dict[str, Any]:
    """Every process raises in a block; the next generation is as if nothing had happened."""
    model, inputs = tiny.build(FLUX)
    autocache.patch(sharded(FLUX, model), "fbcache", **READING[FLUX]["fbcache"][1])
    calls = [0]

    def broken(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt

    handle = model.transformer_blocks[0].norm1.register_forward_hook(broken)
    ended = "well"
    try:
        generate(FLUX, model, inputs, rank)
    except KeyboardInterrupt:
        ended = "interrupted"
    handle.remove()
    # What FSDP wants after any exception.
    model.reset_iter_state()
    return {"ended": ended, **ran(FLUX, model, inputs, rank)}


def _unlike(rank: int) -> dict[str, Any]:
    """Fixed schedules that differ: rank 0 takes ten steps, rank 1 twice five."""
    model, inputs = tiny.build(FLUX)
    sharded(FLUX, model)
    mask = Mask.computing(range(0, STEPS, 2), STEPS)
    patch = autocache.patch(model, when=mask, where=Blocks(), how=Reuse())
    with torch.no_grad():
        times = [1 - n / STEPS for n in range(STEPS)]
        plan = times if rank == 0 else [*times[::2], *times[::2]]
        sample = latent(inputs, rank)
        outputs = [model(**{**inputs(now), LATENT: sample})[0] for now in plan]
    steps = patch.stats().steps
    trace = "".join("C" if step.action == "computed" else "s" for step in steps)
    return {"result": torch.stack(outputs).cpu(), "trace": trace}
