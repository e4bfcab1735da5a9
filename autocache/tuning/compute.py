"""The compute that denoisers really spend, counted operation by operation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Attention on a CPU, for which torch has no formula."""


class Compute:
    """While entered, adds up what the given models compute; `spent` holds the sum.

    Multiplications of matrix products, convolutions and attention, two for each, by the formulas of
    `torch.utils.flop_counter`. Its `FlopCounterMode` follows every module of the process to tell
    where, which makes small models run at half their speed.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._models = list(models)
        self._handles: list[RemovableHandle] = []
        self._mode = _Operations()
        self._depth = 0

    @property
    def spent(self) -> int:
        """Two for each multiplication so far."""
        return self._mode.spent

    def __enter__(self) -> Compute:
        for model in self._models:
            self._handles += [
                model.register_forward_pre_hook(self._begin),
                model.register_forward_hook(self._end, always_call=True),
            ]
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, *_: object) -> None:
        self._depth += 1
        if self._depth == 1:
            self._mode.__enter__()

    def _end(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._mode.__exit__(None, None, None)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.spent = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet is _ON_CPU:
            self.spent += sdpa_flop_count(*(one.shape for one in args[:3]))
        elif packet in flop_registry:
            returned = func(*args, **kwargs)
            self.spent += int(flop_registry[packet](*args, **kwargs, out_val=returned))
            return returned
        elif func._can_decompose():
            # In inference mode composite operations arrive whole.
            with self:
                return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)
