"""One of two processes under torchrun: runs the scenarios it is named and saves what came out.

`torchrun --nproc_per_node=2 -m company.parallel_worker <folder> <scenario> ...`
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from company.parallel_runs import (
    FIXED,
    FLUX,
    LATENT,
    QWEN,
    READING,
    WAN,
    Silence,
    generate,
    latent,
    patched,
    ran,
    times,
    trace,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import autocache
import tiny
from devices import DEVICE

LIMIT = 8_000
"""Bytes."""


def data_parallel() -> dict[str, Any]:
    """Each process its own prompt; whatever it sends to another one is an error."""
    found = {}
    with Silence(forbidden=True):
        for key, choice in {**READING[FLUX], **FIXED}.items():
            model, inputs = patched(FLUX, choice)
            found[key] = ran(FLUX, model, inputs, seed=dist.get_rank())
    return found


def enable_context_parallel(model: Any, degree: str = "ulysses_degree") -> None:
    """diffusers' own, which counts accelerators and takes the CPU for none."""
    from diffusers import ContextParallelConfig

    with mock.patch.object(torch.accelerator, "device_count", return_value=1):
        model.enable_parallelism(config=ContextParallelConfig(**{degree: 2}))


def context_parallel() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, choices in READING.items():
        for key, choice in choices.items():
            model, inputs = tiny.build(name)
            enable_context_parallel(model)
            autocache.patch(model, choice[0], **choice[1])
            with Silence() as silence:
                found[f"{name} {key}"] = ran(name, model, inputs)
            found[f"{name} {key}"]["exchanges"] = silence.exchanges
            autocache.unpatch(model)
            found[f"{name} {key}"]["unpatched"] = generate(name, model, inputs)
    for name, key in ((FLUX, "fbcache"), (WAN, "fbcache"), (WAN, "teacache"), (QWEN, "fbcache")):
        model, inputs = patched(name, READING[name][key])
        # A generation before: parallelism may come at any time.
        generate(name, model, inputs)
        enable_context_parallel(model)
        found[f"{name} {key} patched before"] = ran(name, model, inputs)
    # Room for some of what a half of the tokens wants to keep.
    model, inputs = patched(WAN, ("fora", {}), memory_limit=LIMIT, memory_fit="fewer")
    enable_context_parallel(model)
    with Silence() as silence:
        found["limited"] = ran(WAN, model, inputs)
    found["limited"]["exchanges"] = silence.exchanges
    for name in (FLUX, WAN):
        for key, choice in FIXED.items():
            model, inputs = patched(name, choice)
            enable_context_parallel(model)
            with Silence(forbidden=True):
                found[f"{name} {key} fixed"] = ran(name, model, inputs)
    return found


def _branch(inputs: Callable, time: float, unconditional: bool) -> dict[str, Any]:
    given = inputs(time)
    text = given["encoder_hidden_states"]
    return {**given, "encoder_hidden_states": -text if unconditional else text}


def guided(model: nn.Module, inputs: Callable, run: Callable) -> torch.Tensor:
    """A generation under guidance; `run` gives both branches of a step."""
    sample = latent(inputs, 0)
    with torch.no_grad():
        for now in times(FLUX):
            conditional, unconditional = run(model, inputs, now, sample)
            sample = sample + 0.15 * (unconditional + 3 * (conditional - unconditional))
    return sample.cpu()


def spread(model: nn.Module, inputs: Callable, time: float, sample: torch.Tensor) -> list:
    """One branch on each process, both known to both before the step is taken."""
    given = _branch(inputs, time, unconditional=dist.get_rank() == 1)
    output = model(**{**given, LATENT: sample})[0]
    both = [torch.empty_like(output) for _ in range(2)]
    dist.all_gather(both, output)
    return both


def in_one_batch(model: nn.Module, inputs: Callable, time: float, sample: torch.Tensor) -> Any:
    """Both branches in one call of one process."""
    pair = [_branch(inputs, time, unconditional) for unconditional in (False, True)]
    text = torch.cat([one["encoder_hidden_states"] for one in pair])
    both: dict[str, Any] = {**pair[0], LATENT: torch.cat([sample, sample])}
    both |= {"encoder_hidden_states": text, "timestep": pair[0]["timestep"].repeat(2)}
    both["pooled_projections"] = both["pooled_projections"].repeat(2, 1)
    return model(**both)[0].chunk(2)


def by_calls(model: nn.Module, inputs: Callable, time: float, sample: torch.Tensor) -> list:
    """A call for each branch, in one process."""
    pair = [_branch(inputs, time, unconditional) for unconditional in (False, True)]
    return [model(**{**given, LATENT: sample})[0] for given in pair]


def guidance_parallel() -> dict[str, Any]:
    """The conditional branch on rank 0 and the unconditional one on rank 1."""
    found: dict[str, Any] = {}
    for key, choice in READING[FLUX].items():
        for group in (None, dist.group.WORLD):
            model, inputs = patched(FLUX, choice, group=group)
            result = guided(model, inputs, spread)
            found[f"{key} {'alone' if group is None else 'together'}"] = {
                "result": result,
                "trace": trace(model),
            }
    return found


def tensor_parallel() -> dict[str, Any]:
    """The feed-forward of each block spread over both processes."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh(DEVICE.type, (2,))
    found = {}
    for key in ("teacache", "fbcache", "seacache"):
        model, inputs = tiny.build(WAN)
        for block in model.blocks:
            plan = {"net.0.proj": ColwiseParallel(), "net.2": RowwiseParallel()}
            parallelize_module(block.ffn, mesh, plan)
        choice = READING[WAN][key]
        autocache.patch(model, choice[0], **choice[1])
        with Silence() as silence:
            found[key] = ran(WAN, model, inputs)
        found[key]["exchanges"] = silence.exchanges
    return found


HOMES = {
    "faults": "faults",
    "grid": "grid",
    "pipelines": "weights",
    "weights": "weights",
    "weights_more": "weights",
}
"""The files of the scenarios that are not in this one."""


def save(name: str, found: dict[str, Any]) -> None:
    folder = Path(sys.argv[1])
    torch.save(found, folder / f"{name}.{dist.get_rank()}.part")
    # Whoever reads it never sees a half-written file.
    (folder / f"{name}.{dist.get_rank()}.part").rename(folder / f"{name}.{dist.get_rank()}.pt")


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=90))
    for scenario in sys.argv[2:]:
        # Those of another file are not imported before they are wanted.
        module = importlib.import_module(f"company.parallel_{HOMES.get(scenario, 'worker')}")
        save(scenario, getattr(module, scenario)())
    if "faults" not in sys.argv:
        dist.barrier()
        dist.destroy_process_group()
    else:
        # Rank 1 is gone; what it left unfinished must not be waited for.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
