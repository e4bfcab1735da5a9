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
"""Device types that can be asked for by name."""


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

    kind, _, index = name.partition(":")
    if kind not in KINDS or not (index == "" or index.isdigit()):
        raise DeviceError(
            f"unknown device {name!r}: expected one of {', '.join(KINDS)}, or one with a number, "
            f"as in 'cuda:1'{nearest(kind, KINDS)}"
        )
    if kind in BACKENDS:
        _load(kind, BACKENDS[kind])
    if kind != "cpu" and not torch.get_device_module(kind).is_available():
        raise DeviceError(f"device {name!r} was asked for, and this machine has no {kind} device")
    return torch.device(name)


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
