"""Keeping a module's output, whatever it is made of, and putting it together again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from autocache.runtime.distance import relative_l1
from autocache.runtime.store import Piece

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part

DENOISER = "denoiser"
"""The name under which the output of the whole denoiser is kept."""


def flatten(output: Any) -> tuple[list[Any], Any]:
    """The leaves of a tensor, tuple, mapping or diffusers output, and how to put them together."""
    if isinstance(output, torch.Tensor):
        return [output], None
    if type(output) is tuple and all(isinstance(one, torch.Tensor) for one in output):
        return [*output], tuple
    return pytree.tree_flatten(output)


def unflatten(leaves: list[Any], shape: Any) -> Any:
    if shape is None:
        return leaves[0]
    return tuple(leaves) if shape is tuple else pytree.tree_unflatten(leaves, shape)


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
    layout = moment.kept.get(name)
    return [] if layout is None else [moment.store.get((name, nth)) for nth in layout.tensors]


def note_error(moment: Moment, filled: Any, computed: Any) -> None:
    """Record how far what would have stood in is from what was computed."""
    pairs = zip(flatten(filled)[0], flatten(computed)[0], strict=True)
    moment.note_errors(relative_l1(a, b) for a, b in pairs if isinstance(b, torch.Tensor))


class Layout(NamedTuple):
    """What an output was made of: its leaves, how to put them together, and which are tensors."""

    leaves: tuple[Any, ...]
    shape: Any
    tensors: tuple[int, ...]


_ONE_TENSOR = Layout((None,), None, (0,))


def _taken_apart(output: Any) -> tuple[Sequence[Any], Layout]:
    if isinstance(output, torch.Tensor):
        return (output,), _ONE_TENSOR
    leaves, shape = flatten(output)
    if shape is tuple:
        return leaves, _tensors(len(leaves))
    tensors = tuple(nth for nth, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
    others = (None if nth in tensors else leaf for nth, leaf in enumerate(leaves))
    return leaves, Layout(tuple(others), shape, tensors)


@functools.cache
def _tensors(count: int) -> Layout:
    return Layout((None,) * count, tuple, tuple(range(count)))


class Outputs:
    """The tensors of one module's output in the store, one of so many outputs `expected`."""

    def __init__(self, part: Part, name: str, expected: int = 1) -> None:
        self.part = part
        self.name = name
        self.expected = expected

    def ready(self, moment: Moment) -> bool:
        """Whether every tensor is there and nobody wrote into it."""
        layout, store = moment.state.kept.get(self.name), moment.state.store
        return layout is not None and all(store.has((self.name, nth)) for nth in layout.tensors)

    def values(self, moment: Moment) -> list[tuple[Value, ...]] | None:
        """The last values of each tensor, oldest first; None where one is missing."""
        layout, store = moment.state.kept.get(self.name), moment.state.store
        if layout is None:
            return None
        found = [store.get((self.name, nth)) for nth in layout.tensors]
        return found if all(found) else None

    def fill(self, moment: Moment, values: list[tuple[Value, ...]] | None = None) -> Any:
        """What stands in for the output; `values` are those of its tensors."""
        how, layout = self.part.recipe.how, moment.state.kept[self.name]
        if values is None:
            values = kept_values(moment, self.name)
        leaves = list(layout.leaves)
        for nth, known in zip(layout.tensors, values, strict=True):
            leaves[nth] = how.fill(known, moment)
        if how.pushes:
            self._put(moment, leaves, layout)
        return unflatten(leaves, layout.shape)

    def keep(self, moment: Moment, output: Any) -> bool:
        """Remember an output; False where there is no room for it."""
        leaves, layout = _taken_apart(output)
        kept = moment.state.kept
        if not self._put(moment, leaves, layout):
            kept.pop(self.name, None)
            return False
        kept[self.name] = layout
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

    def _put(self, moment: Moment, leaves: Sequence[Any], layout: Layout) -> bool:
        how = self.part.recipe.how
        if layout is _ONE_TENSOR:
            pieces = [Piece((self.name, 0), leaves[0], how.keep)]
        else:
            keep = how.keep
            pieces = [Piece((self.name, nth), leaves[nth], keep) for nth in layout.tensors]
        time = time_at(moment) if how.timed else None
        store, step = moment.state.store, moment.call.step
        return store.put_all(self.name, pieces, step, time=time, expected=self.expected)
