"""The device that models would run on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from autocache import device
from autocache.cli.checks.finding import Finding
from autocache.errors import DeviceError


def describe() -> dict[str, object]:
    """The device there is: its type, name, how many, and bytes of memory where torch tells."""
    import torch

    for backend, package in device.BACKENDS.items():
        if importlib.util.find_spec(package) is not None:
            device.require(backend)
    kind = device.default()
    if kind == "cpu":
        return {"type": kind, "name": f"{torch.get_num_threads()} threads", "count": 1}
    module = torch.get_device_module(kind)
    properties = getattr(module, "get_device_properties", lambda index: None)(0)
    return {
        "type": kind,
        "name": getattr(properties, "name", kind),
        "count": module.device_count(),
        "memory": getattr(properties, "total_memory", None),
    }


def findings() -> Iterator[Finding]:
    """The device; a vendor's package that finds none is a problem."""
    try:
        found = describe()
    except DeviceError as error:
        yield Finding("problem", "device", str(error))
        return
    memory = found.get("memory")
    size = f", {memory / 2**30:.1f} GiB" if isinstance(memory, int) else ""
    yield Finding("ok", "device", f"{found['count']} x {found['type']}, {found['name']}{size}")
    if found["type"] == "cpu":
        yield Finding("note", "device", "torch finds no accelerator; models run on the CPU")
