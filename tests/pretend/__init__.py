"""A device for machines that have none: the CPU under another name, which torch tells from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.utils import cpp_extension

NAME = "pretend"


class _Module:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """It draws no random numbers of its own."""

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def synchronize(device: object = None) -> None:
        """Everything is done when it was asked for."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def load() -> None:
    """Make `torch.device("pretend")` known. Needs a C++ compiler; what it made is kept."""
    built = Path(tempfile.gettempdir()) / f"autocache_pretend_{torch.__version__}"
    built.mkdir(exist_ok=True)
    source = Path(__file__).with_name("device.cpp")
    cpp_extension.load(NAME, [str(source)], build_directory=str(built), extra_cflags=["-O0"])
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
