"""How many torch operations are dispatched."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = (torch.ops.aten._local_scalar_dense.default,)
"""A number is read off a tensor."""


class Dispatched(TorchDispatchMode):
    """While entered, counts those that are dispatched, or of them `those` alone."""

    def __init__(self, those: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.count = 0
        self._those = those

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not self._those or func in self._those
        return func(*args, **(kwargs or {}))
