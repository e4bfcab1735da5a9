"""How many torch operations are dispatched, and how many tensors they allocate."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Allocated(TorchDispatchMode):
    """While entered, counts the tensors that operations return in memory of their own, and not in
    that of what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.count += len(_storages(output) - _storages((args, kwargs)))
        return output


def _storages(tree: Any) -> set[int]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return {tensor.untyped_storage()._cdata for tensor in tensors}
