"""Machine instructions of one's own process, as valgrind's callgrind counts them.

Whatever a step runs is in it, Python, torch and C alike, however busy the machine is. It is not
time: an instruction that waits for memory counts as one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROCESSORS = ("x86_64", "AMD64")
# How a program asks valgrind for something on x86-64: rotations of rdi that add up to none, which
# without valgrind do nothing, with the address of the request in rax.
_REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_DUMP, _ZERO, _START, _STOP = (_CALLGRIND + nth for nth in (0, 1, 4, 5))
_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def run(command: list[str], out: Path) -> None:
    """A program under callgrind; its dumps are `out` with .1, .2, ... at the end.

    Raises:
        OSError: valgrind is not installed.
        subprocess.CalledProcessError: the program failed.
    """
    own = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    # Where strings lie in a dictionary is the same each time.
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run(["valgrind", "--quiet", *own, *command], env=env, check=True)


def version() -> str:
    """Of the valgrind that is installed. Raises OSError where none is."""
    done = subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.strip().removeprefix("valgrind-")


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Count in this block alone. What is outside runs ten times as fast for it.

    Raises:
        OSError: the processor is no x86-64.
    """
    _request(_START)
    _request(_ZERO)
    try:
        yield
    finally:
        _request(_STOP)


def dump() -> None:
    """Write how many there were since the last time, or since the block began."""
    _request(_DUMP)


def total(out: Path, nth: int) -> int:
    """What the nth dump says, counted from 1."""
    found = _TOTAL.search(out.with_name(f"{out.name}.{nth}").read_text())
    assert found is not None, f"{out}.{nth} has no total"
    return int(found[1])


def _request(what: int) -> None:
    place = ctypes.addressof(ctypes.c_char.from_buffer(_memory()))
    ask = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(place)
    request = (ctypes.c_uint64 * 6)(what)
    ask(ctypes.addressof(request))


@functools.cache
def _memory() -> mmap.mmap:
    if platform.machine() not in PROCESSORS:
        raise OSError(f"valgrind is asked in code of x86-64, and this is {platform.machine()}")
    memory = mmap.mmap(-1, len(_REQUEST), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_REQUEST)
    return memory
