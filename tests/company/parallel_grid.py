"""Four processes in two directions: two share a prompt, and two share weights."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from company.parallel_runs import FLUX, READING, Silence, patched, ran
from company.parallel_weights import fetches, sharded
from torch.distributed.device_mesh import init_device_mesh

import autocache
import tiny
from autocache.runtime.exchange import MEANS, Group
from autocache.runtime.ranks import Shared
from devices import DEVICE

NUMBERS = 40
"""More than one message takes."""


def whole() -> torch.Tensor:
    """(samples, tokens, channels), of which the ranks have shares of different lengths."""
    return torch.randn(NUMBERS, 10, 3, generator=torch.Generator().manual_seed(1))


def grid() -> dict[str, Any]:
    from diffusers import ContextParallelConfig

    found: dict[str, Any] = {}
    rank = dist.get_rank()
    names = ("fsdp", "ring", "ulysses")
    mesh = init_device_mesh(DEVICE.type, (2, 1, 2), mesh_dim_names=names)
    model, inputs = tiny.build(FLUX)
    with mock.patch.object(torch.accelerator, "device_count", return_value=1):
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh))
    sharded(FLUX, model, mesh=mesh["fsdp"])
    autocache.patch(model, "fbcache", **READING[FLUX]["fbcache"][1])
    prompt = mesh["fsdp"].get_local_rank()
    found["both"] = {**fetches(FLUX, model, inputs, prompt), "prompt": prompt}

    # Weights spread over two processes, and the same again on two others: those do not wait.
    copies = init_device_mesh(DEVICE.type, (2, 2), mesh_dim_names=("copies", "shards"))
    model, inputs = tiny.build(FLUX)
    autocache.patch(sharded(FLUX, model, mesh=copies), "fbcache", **READING[FLUX]["fbcache"][1])
    found["copies"] = fetches(FLUX, model, inputs, rank)

    pair = dist.new_group([0, 1])
    model, inputs = patched(FLUX, READING[FLUX]["fbcache"], group=pair)
    with Silence() as silence:
        found["outside"] = ran(FLUX, model, inputs)
    found["outside"]["exchanges"] = silence.exchanges

    for way in ("pairs", "gathered"):
        found[way] = _numbers(by_host=way == "pairs")
    return found


def _numbers(by_host: bool) -> dict[str, Any]:
    """Means and the like over shares; with a backend that takes nothing from the CPU, as well."""
    backend = "gloo" if by_host else "cuda:nccl"
    with mock.patch.object(dist, "get_backend_config", return_value=backend):
        group = Group(dist.group.WORLD, DEVICE)
    ranks = Shared([group], [group]).at(3)
    own = whole().split([1, 2, 3, 4], dim=1)[dist.get_rank()]
    with Silence() as silence:
        (mean,) = ranks.means(own)
        (by_sample,) = ranks.means(own, dims=(1, 2))
        largest = ranks.largest(own)
    lonely = torch.full((2,), float("nan")) if dist.get_rank() == 2 else torch.ones(2)
    (spoilt,) = ranks.means(lonely)
    return {
        "mean": float(mean),
        "by sample": by_sample,
        "largest": largest,
        "spoilt": [float(spoilt), ranks.largest(lonely)],
        "votes": [
            ranks.any_computes(False, ["a"]),
            ranks.any_computes(dist.get_rank() == 3, ["a"]),
            ranks.any_computes(False, ["a"] if dist.get_rank() else ["a", "b"]),
        ],
        "calls": dict(silence.calls),
        "order": group.exchange(MEANS, 0, torch.tensor([float(dist.get_rank())])).tolist(),
    }
