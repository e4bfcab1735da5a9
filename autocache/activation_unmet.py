"""The closing line of `autocache run` where its program, and all that it started, met no model.

The first interpreter that starts makes the file that AUTOCACHE_RUN names and looks into it at its
end; whichever process has something to say of a model writes into it. Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path

VARIABLE = "AUTOCACHE_RUN"


def watch() -> None:
    """Close this process with a line, if it is the program itself and no model is met."""
    file = os.environ.get(VARIABLE)
    if file:
        with contextlib.suppress(OSError):  # It is there: this is a process the program started.
            Path(file).open("x").close()
            atexit.register(_close, Path(file), os.getpid())


def met() -> None:
    """Take note that something was said of a model."""
    file = os.environ.get(VARIABLE)
    if file:
        with contextlib.suppress(OSError), Path(file).open("r+") as note:
            note.write("met")


def _close(file: Path, process: int) -> None:
    if os.getpid() != process:  # A fork of the program ends before it.
        return
    try:
        was_met = file.stat().st_size > 0
        file.unlink()
    except OSError:
        return
    # After a traceback of the program the line would be beside the point.
    if not was_met and getattr(sys, "last_value", None) is None:
        print(f"autocache: nothing was patched: {_why()}", file=sys.stderr, flush=True)


def _why() -> str:
    if "torch" not in sys.modules:
        return "the program never imported torch"
    return (
        "the program made no model that has a spec; `autocache doctor --model module:Class` "
        "says whether a class has one, `autocache specs draft module:Class` writes one"
    )
