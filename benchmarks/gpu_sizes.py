"""What a full-size generation needs, found without memory for it, on torch's meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import sdpa_flop_count

import autocache
from autocache.tuning.compute import Compute
from gpu_models import Model
from loops import Loop

META = torch.device("meta")
STEPS = 5
"""Enough for a step that skips after two that computed."""
LONGER = {"auto": 12}
"""It draws its line through three outputs, once there are as many."""
FIXED: dict[str, dict[str, Any]] = {
    "dit_block": {"step_start": 2, "step_interval": 2},
    "attention": {"step_start": 2, "step_interval": 2},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 2},
    "deepcache": {"interval": 2},
    "auto": {"speedup": 2},
}
"""Strategies that decide without a look at what is computed, which is nothing here."""


def sizes(model: Model) -> dict[str, Any]:
    """Parameters, operations of a step, and bytes: of the weights and of what strategies keep."""
    loop = model.build(META, torch.bfloat16)
    weights = list(loop.model.parameters())
    attention = _Attention()
    with attention, Compute([loop.model]) as compute:
        loop.run(1)
    return {
        "parameters": sum(one.numel() for one in weights),
        "operations_per_step": compute.spent + attention.spent,
        "bytes": {
            "weights": sum(one.nbytes for one in weights),
            "kept": _kept(loop, model),
        },
    }


def _kept(loop: Loop, model: Model) -> dict[str, int]:
    found = {}
    for name, parameters in FIXED.items():
        try:
            patch = autocache.patch(loop.pipeline, name, **parameters)
        except autocache.errors.DoesNotApplyError:
            continue
        with patch, _Attention():
            loop.run(LONGER.get(name, STEPS))
            found[name] = patch.stats().bytes_peak
    return found


class _Attention(TorchFunctionMode):
    """Attention as the kernels of a GPU do it, which never hold every token's weight for every
    other; two operations for each multiplication are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.spent = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = [kwargs.get(name) for name in ("query", "key", "value")]
        query, key, value = [*args[:3], *named[len(args[:3]) :]]
        self.spent += sdpa_flop_count(query.shape, key.shape, value.shape)
        return query.new_empty(*query.shape[:-1], value.shape[-1])
