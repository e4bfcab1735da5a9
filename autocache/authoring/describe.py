"""Values in the notation of a spec's `proof`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

SMALL = 32
"""Numbers of a tensor that are written out."""


def described(value: Any) -> Any:
    """What `notation.value` makes the value from again; random numbers by their shape alone."""
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    cls = type(value)
    return {"class": f"{cls.__module__}:{cls.__qualname__}"}


def _tensor(value: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(value.shape)}
    if value.dtype is not torch.float32:
        found["dtype"] = str(value.dtype).removeprefix("torch.")
    if value.numel() and bool((value == value.flatten()[0]).all()):
        found["value"] = value.flatten()[0].item()
    elif not value.is_floating_point():
        if value.numel() <= SMALL:
            found["values"] = value.flatten().tolist()
        else:
            found["below"] = int(value.max()) + 1
    return found
