"""The Python that runs, counted: the same however busy a machine is."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import autocache

PACKAGE = str(Path(autocache.__file__).parent)


class Work(NamedTuple):
    """Calls of functions, instructions of their code, and calls that autocache intercepted."""

    calls: int
    instructions: int
    intercepted: int


class Counted:
    """While entered, adds up the work in the present thread: in autocache's own files, or in all
    with `everything`. Counts of one interpreter alone can be compared: another version compiles to
    other instructions."""

    def __init__(self, everything: bool = False) -> None:
        self._prefix = "" if everything else PACKAGE
        self._calls = self._instructions = self._intercepted = 0

    @property
    def work(self) -> Work:
        """What was counted so far."""
        return Work(self._calls, self._instructions, self._intercepted)

    def __enter__(self) -> Counted:
        # Freed by the collector, a track or scope runs code of its own at any moment.
        gc.disable()
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.settrace(self._before)
        gc.enable()

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(self._prefix):
            return None
        self._calls += 1
        self._intercepted += code.co_name == "__call__" and code.co_filename.endswith(
            "intercept.py"
        )
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, argument: object) -> Any:
        self._instructions += event == "opcode"
        return self._instruction
