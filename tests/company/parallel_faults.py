"""Processes that fail, each in its own way."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from company.parallel_runs import (
    FLUX,
    LATENT,
    READING,
    TEACACHE,
    Choice,
    generate,
    latent,
    patched,
    ran,
    times,
)
from company.parallel_worker import save
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

import autocache
import tiny
from autocache.probe import FirstBlocks
from autocache.runtime.moment import Decision, Moment
from autocache.when import Residual
from autocache.where import Blocks
from devices import DEVICE

SHORT = datetime.timedelta(seconds=4)
"""How long a rank of a group that is to fail waits for the others."""


class BrokenError(Exception):
    """A failure of this process."""


def _failing(choice: Choice, step: int, ranks: tuple[int, ...], group: Any) -> dict[str, Any]:
    """A generation in which some processes raise in a block; what becomes of it, and the next."""
    model, inputs = patched(FLUX, choice, group=group)
    calls = [0]

    def broken(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == step + 1 and dist.get_rank() in ranks:
            raise BrokenError

    handle = model.transformer_blocks[0].norm1.register_forward_hook(broken)
    found = ended(FLUX, model, inputs)
    handle.remove()
    return found | ran(FLUX, model, inputs) if len(ranks) == 2 else found


def ended(name: str, model: nn.Module, inputs: Callable) -> dict[str, Any]:
    """How a generation ended, and how long it took."""
    began, how = time.monotonic(), "well"
    try:
        generate(name, model, inputs)
    except (BrokenError, autocache.errors.RankError) as error:
        how = f"{type(error).__name__}: {error}"
    return {"ended": how, "took": time.monotonic() - began}


@dataclass(frozen=True)
class BrokenRule(Residual):
    """Raises on rank 1 while rank 0 waits to hear what it measured."""

    def decide(self, moment: Moment) -> Decision:
        if moment.step == 3 and dist.get_rank() == 1:
            raise BrokenError
        return super().decide(moment)


def faults() -> dict[str, Any]:
    found = {}
    fbcache = READING[FLUX]["fbcache"]
    everyone = dist.new_group(timeout=SHORT)
    found["all"] = _failing(fbcache, 5, (0, 1), everyone)
    found["all again"] = _failing(fbcache, 1, (0, 1), everyone)
    # A group in which a rank did not come is of no use any more: each has one of its own.
    found["block"] = _failing(TEACACHE, 3, (1,), dist.new_group(timeout=SHORT))
    dist.barrier()
    model, inputs = tiny.build(FLUX)
    rule = BrokenRule(FirstBlocks(), 0.1)
    where = Blocks((1, 6))
    autocache.patch(model, when=rule, where=where, group=dist.new_group(timeout=SHORT))
    found["rule"] = ended(FLUX, model, inputs)
    dist.barrier()
    mesh = DeviceMesh.from_group(dist.new_group(timeout=SHORT), DEVICE.type)
    model, inputs = tiny.build(FLUX)
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        fully_shard(block, mesh=mesh)
    autocache.patch(fully_shard(model, mesh=mesh), when=rule, where=where)
    found["weights"] = ended(FLUX, model, inputs)
    dist.barrier()
    found["elsewhere"] = _elsewhere(dist.new_group(timeout=SHORT))
    dist.barrier()
    group = dist.new_group(timeout=datetime.timedelta(minutes=10))
    if dist.get_rank() == 1:
        save("faults", found)
        os._exit(0)
    found["gone"] = _failing(fbcache, 0, (), group)
    return found


def _elsewhere(group: Any) -> dict[str, Any]:
    """Rank 1 starts again after two steps, and rank 0 goes on; then both start again."""
    model, inputs = patched(FLUX, TEACACHE, group=group)
    plan = times(FLUX)[:2] + times(FLUX)[:3] if dist.get_rank() else times(FLUX)[:3]
    said = "nothing"
    try:
        with torch.no_grad():
            for now in plan:
                model(**{**inputs(now), LATENT: latent(inputs, 0)})
    except autocache.errors.RankError as error:
        said = str(error)
    return {"said": said, **ran(FLUX, model, inputs)}
