"""What does not depend on time: text embedders, keys and values of the text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from autocache.errors import DoesNotApplyError, ParameterError
from autocache.spec.bind import named
from autocache.where.base import BlockRanges, Where, in_blocks
from autocache.where.submodules import OutputSite

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
    from autocache.runtime.outputs import Outputs
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound


@dataclass(frozen=True)
class Invariant(Where):
    """The modules that the spec lists as invariant; with `blocks`, only those inside the blocks.

    It goes with `when.Unchanged`, which has a module run whenever its inputs did change.
    """

    blocks: BlockRanges | None = None
    exact: ClassVar[bool] = True

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        found = self._modules(bound)
        return [
            (module, _Site(part, name, len(found), attention=False))
            for name, module in found.items()
        ]

    def within(self, blocks: BlockRanges) -> Where:
        return replace(self, blocks=blocks)

    def _modules(self, bound: Bound) -> dict[str, nn.Module]:
        patterns = bound.spec.invariant
        found = {n: module for pattern in patterns for n, module in named(bound.model, pattern)}
        if not found:
            raise DoesNotApplyError(
                f"the spec of {bound.spec.name} lists no module whose inputs stay the same from "
                "step to step (invariant:); strategies that skip blocks or the whole call do apply"
            )
        if self.blocks is None:
            return found
        paths = tuple(f"{path}." for path, _, _ in in_blocks(bound, self.blocks))
        inside = {name: module for name, module in found.items() if name.startswith(paths)}
        if not inside:
            raise ParameterError(
                f"blocks: no invariant module of {bound.spec.name} is inside the chosen blocks; "
                f"there are {', '.join(patterns)}"
            )
        return inside


class _Site(OutputSite):
    """What stands in must be all of the output, of which the same inputs ask for all again, in
    whichever call of the module."""

    def _of(self, nth: int) -> Outputs:
        return super()._of(0)

    def to_keep(self, moment: Moment, output: Any) -> Any:
        return output
