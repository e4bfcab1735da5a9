"""A stream as it enters a block, from which what is added to it further on can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocache.runtime.intercept import PASS
from autocache.runtime.parallelism import share

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import BoundStack


class Entry:
    """Remembers the latent stream that a block was given, for the length of the denoiser call."""

    def __init__(self, part: Part, stack: BoundStack, block: int) -> None:
        self.part = part
        self.session = part.session
        self.stream = stack.spec.streams[0]
        self.binder = stack.binders[block]

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is not None:
            if moment.call.ranks.splits:
                args, kwargs = share(module, args, kwargs)
            stream = self.binder.get(self.stream, args, kwargs)
            if moment.store.copies:
                # The compiled block may write its result to where this is.
                stream = stream.clone()
            moment.flights[self] = (stream, _version(stream))
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output

    def before(self, moment: Moment) -> torch.Tensor | None:
        """The stream as it entered; None where the model wrote into it, so that it is not known."""
        if self not in moment.flights:
            return None
        before, version = moment.flights.pop(self)
        return before if _version(before) == version else None

    def added(self, moment: Moment, now: torch.Tensor) -> torch.Tensor | None:
        """What was added since, in the stream's dtype; None where it is not known."""
        before = self.before(moment)
        if before is None:
            return None
        # A block may cast what it hands on to its sub-modules, and its inputs be on another device.
        return (now - before.to(now.device)).to(before.dtype)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
