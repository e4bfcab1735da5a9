"""The residual of the first blocks, which are always computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.errors import ParameterError
from autocache.runtime.intercept import COMPUTE, PASS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound, BoundStack


@dataclass(frozen=True)
class FirstBlocks:
    """What the first `count` blocks of a stack add to the latent stream.

    The stack is the first one, or the one of the given path. Shape: that of the latent stream.
    """

    count: int = 1
    stack: str | None = None

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        stack = bound.stack(self.stack)
        if not 1 <= self.count <= len(stack.blocks):
            raise ParameterError(
                f"{self.count} first blocks were asked for; {stack.path} of {bound.spec.name} "
                f"has {len(stack.blocks)}"
            )
        residual = _Residual(part, stack, self.count - 1)
        first, last = stack.blocks[0], stack.blocks[self.count - 1]
        return [(first, _Entry(residual)), (last, _Exit(residual))]


class _Residual:
    def __init__(self, part: Part, stack: BoundStack, last: int) -> None:
        self.part = part
        self.stream = stack.spec.streams[0]
        self.binder = stack.binders[0]
        returns = stack.spec.returns
        self.index = (
            None if isinstance(returns, str) else stack.spec.return_order.index(self.stream)
        )
        self.before: torch.Tensor | None = None


class _Entry:
    """Remembers the stream as it enters; the model may write into it, so a copy where it does."""

    def __init__(self, residual: _Residual) -> None:
        self.residual = residual
        self.session = residual.part.session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.residual.part.moment
        if moment is not None:
            stream = self.residual.binder.get(self.residual.stream, args, kwargs)
            moment.flights[self.residual] = (stream, _version(stream))
        return PASS

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        return output


class _Exit:
    def __init__(self, residual: _Residual) -> None:
        self.residual = residual
        self.session = residual.part.session

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return COMPUTE

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        residual = self.residual
        moment = residual.part.moment
        if moment is not None and residual in moment.flights:
            before, version = moment.flights.pop(residual)
            after = output if residual.index is None else output[residual.index]
            # Written into on the way: the difference is not known, and the step is computed.
            moment.probe = after - before if _version(before) == version else None
        return output


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
