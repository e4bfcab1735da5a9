"""The base of a choice of places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from autocache.errors import ParameterError, nearest

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound

BlockRanges = tuple[int, int] | Mapping[str, tuple[int, int]]
"""A half-open range counted over all stacks in the order they run, or one for each stack's path."""


class Around(Protocol):
    """Acts around the whole denoiser call."""

    def around(self, proceed: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The denoiser's output; `proceed(*args, **kwargs)` runs it, on these or other inputs."""
        ...


class Where:
    """An immutable choice of places in an architecture."""

    exact: ClassVar[bool] = False
    """What is skipped is the very same as what would be computed, so it composes with anything."""
    needs_spec: ClassVar[bool] = True
    """Whether it must know what is inside the model."""
    skips: ClassVar[bool] = True
    """Whether it is there to skip anything: who does so nowhere is told."""
    arranges: ClassVar[bool] = False
    """Whether it chooses the timesteps of a generation, which only one may, on a scheduler."""

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        """The modules to intercept, each with what acts on its calls.

        Raises:
            ParameterError: the model has no such places.
        """
        return []

    def around(self, bound: Bound, part: Part) -> Around | None:
        """What acts around the whole denoiser call, if anything does."""
        return None

    def claims(self, bound: Bound) -> list[nn.Module]:
        """The modules that may be skipped. Another strategy may have no business inside them."""
        return [module for module, _ in self.sites(bound, _NOBODY)]

    def within(self, blocks: BlockRanges) -> Where:
        """The same places, in some of the blocks only.

        Raises:
            ParameterError: they are not places in blocks.
        """
        raise ParameterError("blocks: this strategy acts on no blocks, so there are none to choose")

    def timesteps(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Other arguments for the scheduler's `set_timesteps`; None leaves them.

        Raises:
            ParameterError: the scheduler cannot take them.
        """
        return None

    def accept(self, pipeline: Any) -> None:
        """Raises PatchError when it cannot act on a pipeline like this one."""

    def refuse_midway(self, pipeline: str) -> None:
        """Raises PatchError when it cannot act on a scheduler that starts after its first step."""

    def stepping(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Other arguments for the scheduler's `step`; None leaves them."""
        return None

    def arrange(self, scheduler: Any) -> None:
        """The scheduler has its timesteps; now is the time to change them.

        Raises:
            ParameterError: its timesteps cannot be changed so.
        """


def first_time(moment: Moment, site: Site) -> bool:
    """Whether a module is reached for the first time in this call: what a model runs several times
    counts once."""
    if site in moment.flights:
        return False
    moment.flights[site] = None
    return True


class _Nobody:
    """Stands in for a part while places are only listed."""

    session: Any = None
    recipe: Any = None
    index = 0
    asks = False


_NOBODY: Any = _Nobody()


def check(bound: Bound, blocks: BlockRanges) -> None:
    """Raises ParameterError when a model has no such stack, or no such blocks in it."""
    paths = {stack.path: len(stack.blocks) for stack in bound.stacks}
    if isinstance(blocks, Mapping):
        for path, (start, end) in blocks.items():
            if path not in paths:
                raise ParameterError(
                    f"blocks names {path!r}, which is no block stack of {bound.spec.name}"
                    f"{nearest(path, paths)}"
                )
            if not 0 <= start < end <= paths[path]:
                raise ParameterError(
                    f"blocks gives [{start}, {end}) for {path}, which has {paths[path]} blocks; "
                    "expected 0 <= start < end <= that"
                )
    elif not 0 <= blocks[0] < blocks[1] <= bound.block_count:
        raise ParameterError(
            f"blocks={blocks[0]}:{blocks[1]} is no range of the {bound.block_count} blocks of "
            f"{bound.spec.name}; expected 0 <= start < end <= {bound.block_count}"
        )


def in_blocks(bound: Bound, blocks: BlockRanges | None) -> list[tuple[str, nn.Module, int]]:
    """The chosen blocks of all stacks: (path, module, index of the stack), None choosing all.

    Raises:
        ParameterError: as `check` does.
    """
    if blocks is not None:
        check(bound, blocks)
    found = []
    for nth, stack in enumerate(bound.stacks):
        for index, block in enumerate(stack.blocks):
            if isinstance(blocks, Mapping):
                start, end = blocks.get(stack.path, (0, 0))
                chosen = start <= index < end
            else:
                chosen = blocks is None or blocks[0] <= stack.offset + index < blocks[1]
            if chosen:
                found.append((f"{stack.path}.{index}", block, nth))
    return found
