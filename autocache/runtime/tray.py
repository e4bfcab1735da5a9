"""What compiled code is handed for an intercepted module inside it, and what it leaves there.

A site's decisions are Python on host state, which a compiler cannot trace: asking a site from
inside compiled code breaks its graph. So the site is asked before that code runs. What stands in
for each call lies ready on the module's tray, traced like any other attribute; what was computed is
left there, and the site sees it afterwards.
"""

from __future__ import annotations

import threading
from typing import Any


class Tray:
    """What lies ready for the calls of one module, and what they leave.

    The compiler guards on it: nothing here may differ from step to step but the tensors, and
    whether there are any. So one more graph is made for the steps that fill in, and no third.
    """

    def __init__(self) -> None:
        self.laid = False
        self.given: tuple[Any, ...] = ()
        self.left: list[Any] = []
        self.calls = 0

    def lay(self, given: tuple[Any, ...]) -> None:
        """Make ready: what stands in for each call to come, COMPUTE for one that runs. Calls beyond
        them run too."""
        self.given, self.left, self.calls = given, [], 0
        self.laid = True

    def clear(self) -> None:
        self.given, self.left = (), []
        self.laid = False


class Trays(threading.local):
    """One module's trays, one for each thread. A copied module has its own."""

    def __init__(self) -> None:
        self.here = Tray()

    def __deepcopy__(self, memo: dict[int, Any]) -> Trays:
        return Trays()
