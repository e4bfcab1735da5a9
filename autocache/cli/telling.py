"""How far a command is, on standard error: one line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def telling(
    command: str,
    begins: str,
    console: Console | None = None,
    *,
    part: Callable[[str], str] = str,
) -> Iterator[Callable[[str], None]]:
    """A function that is told what is done now.

    Args:
        command: what lines begin with where there is no terminal.
        begins: what is done first.
        console: where to say it; standard error by default.
        part: what of it is worth a line of its own, once: a log is not to have one for each step.
    """
    from rich.console import Console
    from rich.text import Text

    where = console or Console(stderr=True)
    last = ""
    with where.status(Text(begins)) as status:

        def tell(doing: str) -> None:
            nonlocal last
            status.update(Text(doing))
            if not where.is_terminal and (line := part(doing)) != last:
                last = line
                where.print(f"{command}: {line}", markup=False, highlight=False, soft_wrap=True)

        tell(begins)
        yield tell
