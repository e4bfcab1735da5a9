"""An accelerator for machines without one: where a tensor is on the wrong device, it fails.

`tests/emulated.cpp` says how. It is compiled at first use, and kept for the next one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = os.environ.get("CXX", "c++")


class Stream:
    """Where copies wait until somebody waits for them."""

    def __init__(self, device: object = None) -> None: ...

    def wait_stream(self, stream: object) -> None:
        """What the default stream does is done at once."""

    def record_event(self) -> Stream:
        return self

    def synchronize(self) -> None:
        torch.ops.emulated.wait()


class Default:
    """It waits for nothing unless it is told to: what was queued elsewhere stays there."""

    def synchronize(self) -> None: ...

    def wait_event(self, event: Stream) -> None:
        event.synchronize()

    wait_stream = wait_event


class Event:
    """torch's compiler asks for it as soon as there is such a device."""


@contextlib.contextmanager
def _stream(_: Stream) -> Iterator[None]:
    torch.ops.emulated.enter_stream(True)
    try:
        yield
    finally:
        torch.ops.emulated.enter_stream(False)


def _module() -> Any:
    """What `torch.cuda` is to CUDA."""
    module: Any = types.ModuleType("torch.hpu")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 2
    module.current_device = lambda: 0
    module.Stream, module.Event, module.stream = Stream, Event, _stream
    module.current_stream = lambda *_: Default()
    for nothing in ("_lazy_init", "synchronize", "empty_cache", "manual_seed_all", "set_device"):
        setattr(module, nothing, lambda *_: None)
    return module


def _compiled() -> Path:
    version = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"autocache-tests-{os.getuid()}"
    library = folder / f"emulated-{version}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        flags = ["-std=c++20", "-O0", "-fPIC", "-shared", "-o", str(made)]
        flags += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        flags += [f"-I{path}" for path in cpp_extension.include_paths()]
        flags += [f"-L{path}" for path in cpp_extension.library_paths()]
        command = [COMPILER, str(SOURCE), *flags, "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True, timeout=300)
        made.replace(library)
    return library


@functools.cache
def device(index: int = 0) -> torch.device:
    """The emulated accelerator, of which there are two; it needs a C++ compiler."""
    if not hasattr(torch, "hpu"):
        if shutil.which(COMPILER) is None:
            pytest.skip(f"the emulated accelerator needs a C++ compiler, and {COMPILER} is not one")
        torch.ops.load_library(_compiled())
        module = sys.modules["torch.hpu"] = _module()
        torch._register_device_module("hpu", module)
        recorded = torch.Tensor.record_stream
        torch.Tensor.record_stream = lambda self, stream: (
            None if isinstance(stream, (Stream, Default)) else recorded(self, stream)
        )
    return torch.device("hpu", index)
