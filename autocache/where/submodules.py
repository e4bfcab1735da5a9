"""Sub-modules of every block, chosen by kind: their output is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import ParameterError
from autocache.runtime.distance import relative_l1
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.moment import Moment

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.session import Session
    from autocache.spec.bind import Bound


@dataclass(frozen=True)
class Submodules:
    """Attention modules of the given kinds (`self`, `joint`, `cross`, `temporal`)."""

    attention: tuple[str, ...]

    def sites(self, bound: Bound, session: Session) -> list[tuple[nn.Module, Site]]:
        found = [
            (f"{stack.path}.{index}.{path}", block.get_submodule(path))
            for stack in bound.stacks
            for index, block in enumerate(stack.blocks)
            for path, kind in stack.spec.attention.items()
            if kind in self.attention
        ]
        if not found:
            kinds = sorted({k for s in bound.stacks for k in s.spec.attention.values()})
            raise ParameterError(
                f"{bound.spec.name} has no attention of kind {', '.join(self.attention)}; "
                f"its kinds are {', '.join(kinds) or 'none'}"
            )
        return [(module, OutputSite(session, name, len(found))) for name, module in found]


class OutputSite:
    """One module whose output can be filled in."""

    def __init__(self, session: Session, name: str, expected: int) -> None:
        self.session = session
        self.name = name
        self.expected = expected

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.session.here.acting
        if moment is None:
            return PASS
        if self.session.decide(moment).compute or not self._ready(moment):
            moment.record.sites[self.name] = "computed"
            return COMPUTE
        action = self.session.recipe.how.action
        moment.record.sites[self.name] = moment.record.action = action
        if moment.dry_run:
            return COMPUTE
        moment.record.attention_skipped += 1
        return self._fill(moment)

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.session.here.acting
        if moment is None:
            return output
        decision = self.session.decide(moment)
        if not decision.compute and moment.record.sites.get(self.name) != "computed":
            self._compare(moment, output)
        elif decision.keep or not decision.compute:
            self._keep(moment, output)
        return output

    def _layout(self, moment: Moment) -> tuple[bool, ...] | bool | None:
        """Which members of the output are tensors; True for a bare tensor, None when unknown."""
        return moment.kept.get(self.name)

    def _keys(self, layout: tuple[bool, ...] | bool) -> list[tuple[str, int]]:
        members = (layout,) if isinstance(layout, bool) else layout
        return [(self.name, nth) for nth, has in enumerate(members) if has]

    def _ready(self, moment: Moment) -> bool:
        layout = self._layout(moment)
        return layout is not None and all(moment.store.get(key) for key in self._keys(layout))

    def _fill(self, moment: Moment) -> Any:
        layout = self._layout(moment)
        how = self.session.recipe.how

        def member(nth: int) -> torch.Tensor:
            return how.fill(moment.store.get((self.name, nth)), moment.step)

        if isinstance(layout, tuple):
            return tuple(member(nth) if has else None for nth, has in enumerate(layout))
        return member(0)

    def _keep(self, moment: Moment, output: Any) -> None:
        members = output if isinstance(output, tuple) else (output,)
        if not all(m is None or isinstance(m, torch.Tensor) for m in members):
            return
        for nth, member in enumerate(members):
            if member is not None:
                moment.store.put(
                    (self.name, nth),
                    member,
                    moment.step,
                    keep=self.session.recipe.how.keep,
                    expected=self.expected * len(members),
                )
        layout = tuple(member is not None for member in members)
        moment.kept[self.name] = layout if isinstance(output, tuple) else True

    def _compare(self, moment: Moment, output: Any) -> None:
        filled = self._fill(moment)
        if not isinstance(output, tuple):
            filled, output = (filled,), (output,)
        errors = [relative_l1(a, b) for a, b in zip(filled, output, strict=True) if b is not None]
        moment.record.error = max([moment.record.error or 0.0, *errors])
