"""Keeping a module's output, whatever it is made of, and putting it together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from autocache.runtime.distance import relative_l1
from autocache.runtime.store import Piece

if TYPE_CHECKING:
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.runtime.store import Value

DENOISER = "denoiser"
"""The name under which the output of the whole denoiser is kept."""


def flatten(output: Any) -> tuple[list[Any], Any]:
    """The leaves of a tensor, tuple, mapping or diffusers output, and how to put them together."""
    if isinstance(output, torch.Tensor):
        return [output], None
    return pytree.tree_flatten(output)


def unflatten(leaves: list[Any], shape: Any) -> Any:
    return leaves[0] if shape is None else pytree.tree_unflatten(leaves, shape)


def time_at(moment: Moment) -> float:
    """The timestep of a call; its step, where nothing tells the denoiser or its caller the time."""
    try:
        return moment.call.time_of(moment.step)
    except LookupError:
        return float(moment.step)


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The one tensor there is, or all of several in one vector; None where there is none."""
    if len(tensors) > 1:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])
    return tensors[0] if tensors else None


def kept_values(moment: Moment, name: str) -> list[tuple[Value, ...]]:
    """The last values, oldest first, of each tensor of the output that is kept under a name."""
    kept, _ = moment.kept.get(name, ((), None))
    return [moment.store.get((name, nth)) for nth in _tensors(kept)]


def note_error(moment: Moment, filled: Any, computed: Any) -> None:
    """Record how far what would have stood in is from what was computed."""
    pairs = zip(flatten(filled)[0], flatten(computed)[0], strict=True)
    moment.note_errors(relative_l1(a, b) for a, b in pairs if isinstance(b, torch.Tensor))


class Outputs:
    """The tensors of one module's output in the store, one of so many outputs `expected`."""

    def __init__(self, part: Part, name: str, expected: int = 1) -> None:
        self.part = part
        self.name = name
        self.expected = expected

    def ready(self, moment: Moment) -> bool:
        """Whether every tensor is there and nobody wrote into it."""
        layout = moment.kept.get(self.name)
        if layout is None:
            return False
        leaves, _ = layout
        return all(moment.store.has((self.name, nth)) for nth in _tensors(leaves))

    def fill(self, moment: Moment) -> Any:
        """What stands in for the output."""
        how = self.part.recipe.how
        kept, shape = moment.kept[self.name]
        leaves = list(kept)
        for nth in _tensors(kept):
            leaves[nth] = how.fill(moment.store.get((self.name, nth)), moment)
        if how.pushes:
            self._put(moment, leaves)
        return unflatten(leaves, shape)

    def keep(self, moment: Moment, output: Any) -> bool:
        """Remember an output; False where there is no room for it."""
        leaves, shape = flatten(output)
        if not self._put(moment, leaves):
            moment.kept.pop(self.name, None)
            return False
        kept = [_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        moment.kept[self.name] = kept, shape
        return True

    def settle(self, moment: Moment, output: Any) -> Any:
        """What goes on in place of a computed output, after steps that were filled in."""
        how = self.part.recipe.how
        leaves, shape = flatten(output)
        for nth, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                values = moment.store.get((self.name, nth), like=leaf)
                leaves[nth] = how.settle(values, leaf, moment)
        return unflatten(leaves, shape)

    def drop(self, moment: Moment) -> None:
        """Let go of what is kept."""
        moment.kept.pop(self.name, None)
        moment.store.drop(self.name)

    def compare(self, moment: Moment, output: Any) -> None:
        """The error that a dry run would have made here."""
        note_error(moment, self.fill(moment), output)

    def _put(self, moment: Moment, leaves: list[Any]) -> bool:
        how = self.part.recipe.how
        pieces = [
            Piece((self.name, nth), leaf, how.keep)
            for nth, leaf in enumerate(leaves)
            if isinstance(leaf, torch.Tensor)
        ]
        time = time_at(moment) if how.timed else None
        return moment.store.put_all(
            self.name, pieces, moment.step, time=time, expected=self.expected
        )


_TENSOR: Any = type("Tensor", (), {"__repr__": lambda self: "TENSOR"})()
"""Marks the place of a tensor among the leaves."""


def _tensors(leaves: Sequence[Any]) -> list[int]:
    return [nth for nth, leaf in enumerate(leaves) if leaf is _TENSOR]
