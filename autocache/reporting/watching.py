"""`AUTOCACHE_REPORT`: a report at exit, for a program that knows nothing of us.

Sessions are kept and not models: a program that lets go of a pipeline gets its memory back.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError
from autocache.reporting import picture_data, pictures
from autocache.reporting.document import document
from autocache.reporting.write import checked, devices_of, write

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.session import Session

PROMPT = 200
"""Most characters of a prompt below its picture."""

_logger = logging.getLogger("autocache")
_sessions: list[Session] = []
_together: list[list[Session]] = []
"""The sessions of each pipeline."""
_devices: dict[str, None] = {}
_drawn: deque[dict[str, Any]] = deque(maxlen=pictures.SHOWN)
_wrapped: set[type] = set()
_count = 0


def keep(model: nn.Module, file: str) -> None:
    """Report on a patched model when the process ends.

    Raises:
        AutocacheError: the file's ending is none that a report can have.
    """
    from autocache.planning import sessions_of

    path = checked(file).absolute()
    if not _sessions:
        atexit.register(_write, path, os.getpid())
    _sessions.extend(session for session in sessions_of(model) if session not in _sessions)


def keep_pipeline(pipeline: Any) -> None:
    """Report on the denoisers of a pipeline together, with small copies of what it draws."""
    import wrapt

    from autocache.planning import sessions_of

    own = [session for session in sessions_of(pipeline) if session in _sessions]
    if not own:
        return
    if own not in _together:
        _together.append(own)
    owner = next((c for c in type(pipeline).__mro__ if "__call__" in vars(c)), None)
    if owner is not None and owner not in _wrapped:
        _wrapped.add(owner)
        wrapt.wrap_function_wrapper(owner, "__call__", functools.partial(_called, owner))


def _called(
    owner: type, wrapped: Callable[..., Any], pipeline: Any, args: tuple, kwargs: dict
) -> Any:
    output = wrapped(*args, **kwargs)
    # A subclass that calls `super().__call__` is heard once, as itself.
    if next(c for c in type(pipeline).__mro__ if "__call__" in vars(c)) is owner:
        try:
            _look(pipeline, output, kwargs.get("prompt", args[0] if args else None))
        except Exception as error:
            # What a pipeline returns is its own affair: the report goes without, the program on.
            _logger.warning("no pictures in the report: %s", str(error))
    return output


def _look(pipeline: Any, output: Any, prompt: Any) -> None:
    global _count
    from autocache.planning import sessions_of

    own = [session for session in sessions_of(pipeline) if session in _sessions]
    if not own:
        return
    _devices.update(dict.fromkeys(devices_of([s.model for s in own if s.model is not None])))
    found = picture_data.few(output, pictures.SHOWN)
    if found is None:
        return
    kept, count = found
    clips = picture_data.as_clips(kept)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    captions = None
    if isinstance(prompts, (list, tuple)) and prompts:
        each = max(count // len(prompts), 1)
        texts = [str(prompts[min(n // each, len(prompts) - 1)]) for n in range(len(clips))]
        captions = [text[:PROMPT] for text in texts]
    made = pictures.compare(clips, captions=captions)
    _drawn.extend(made["shown"])
    _count += count


def _write(path: Path, pid: int) -> None:
    from autocache.run_stats import collect

    if os.getpid() != pid:  # a forked worker: the parent writes
        return
    inside = {id(session) for together in _together for session in together}
    groups = [group for group in _together if not any(_within(group, o) for o in _together)]
    groups += [[session] for session in _sessions if id(session) not in inside]
    models = [session.model for session in _sessions if session.model is not None]
    shown = list(_drawn)
    drawn = {
        "kind": "picture",
        "gain": pictures.GAIN,
        "count": _count,
        "shown": shown,
        **pictures.summary([]),
    }
    try:
        devices = [*_devices] or devices_of(models)
        runs = [collect(group).to_dict() for group in groups]
        write(document(runs, devices, drawn if shown else None), path)
    except AutocacheError as error:
        print(f"autocache: no report: {error}", file=sys.stderr, flush=True)


def _within(group: list[Session], other: list[Session]) -> bool:
    return len(group) < len(other) and all(session in other for session in group)
