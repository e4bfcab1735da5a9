"""The one place that knows CUDA, NPU, MPS, XPU and the CPU apart."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autocache.errors import DeviceError, nearest

if TYPE_CHECKING:
    import torch

BACKENDS = {"npu": "torch_npu"}
"""Device types that torch knows by the package of a vendor only."""

KINDS = ("cpu", "cuda", "mps", "npu", "xpu")
"""Device types that people have; a vendor may have registered another one with torch."""


def default() -> str:
    """The type of the accelerator at hand, or `cpu`."""
    import torch

    # torch.accelerator came with 2.6; before, a device has to be named.
    found = getattr(torch, "accelerator", None)
    if found is None or not found.is_available():
        return "cpu"
    return found.current_accelerator().type


def require(name: str) -> torch.device:
    """The device of a name such as `cuda`, `cuda:1` or `npu:0`, ready for use.

    A vendor's package is imported here and nowhere else, when its device is asked for.

    Raises:
        DeviceError: there is no such type of device, its package is missing or cannot find the
            vendor's libraries, or this machine has none.
    """
    import torch

    kind = name.partition(":")[0]
    if kind in BACKENDS:
        _load(kind, BACKENDS[kind])
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"unknown device {name!r}{nearest(kind, KINDS)}; a number may follow, as in 'cuda:1'"
        ) from error
    # A number that is too large for torch comes out as another one, below zero.
    if kind != "cpu" and not 0 <= (found.index or 0) < _count(kind):
        raise DeviceError(f"device {name!r} was asked for, and this machine has no such device")
    return found


def _count(kind: str) -> int:
    """How many devices of a kind there are; of one that torch cannot run anything on, none."""
    import torch

    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return module.device_count() if hasattr(module, "device_count") else 1


def _load(kind: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise DeviceError(_unusable(kind, package, error)) from error
        raise DeviceError(
            f"device {kind!r} needs the package {package}, which is not installed: "
            f"pip install 'autocache[{kind}]'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        # What the vendor's own libraries are missing shows only when they are loaded.
        raise DeviceError(_unusable(kind, package, error)) from error


def _unusable(kind: str, package: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    return (
        f"device {kind!r}: {package} is installed and cannot be loaded ({said}); its driver and "
        "runtime libraries (CANN for Ascend) have to be installed and on the library path"
    )


def synchronize(device: torch.device) -> None:
    """Wait until everything queued on a device is done; nothing to wait for on the CPU."""
    import torch

    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def streams(device: torch.device) -> Any:
    """The module with `Stream`, `Event`, `stream()` and `current_stream()` of a device; None where
    work is not queued in streams that copies could overlap with."""
    import torch

    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    return module if hasattr(module, "Stream") and hasattr(module, "current_stream") else None


def on_host_like(tensor: torch.Tensor) -> torch.Tensor:
    """An empty tensor like this one in the host's memory: pinned where the device can copy to it on
    its own, which not every device and not every host allows."""
    import torch

    pins = streams(tensor.device) is not None
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=pins)
    except RuntimeError:
        return torch.empty_like(tensor, device="cpu")
