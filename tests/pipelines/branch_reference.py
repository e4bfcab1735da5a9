"""A plain loop whose skipped steps are put together by definition, for each guidance branch."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from autocache.spec.schema import Spec, Stack

Plan = dict[str, tuple[int, int]]
"""A half-open range of blocks for each stack's path."""


class Recomposed:
    """A plain denoiser in a loop of its own. In every other step, ranges of its blocks give what
    entered them plus what they added the last time that they counted in the same branch.

    Branches are told apart by their place in the step, steps by their timestep.
    """

    def __init__(self, model: nn.Module, spec: Spec, plan: Plan) -> None:
        self.spec = spec
        self.calls: list[tuple[int, int]] = []
        """Step and place in it of every call that belongs to a step."""
        self.skipped: set[tuple[int, int]] = set()
        self.counts = True
        self._time: Any = None
        self._left: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._signature = inspect.signature(model.forward)
        model.register_forward_pre_hook(self._begins, with_kwargs=True)
        for stack in spec.stacks:
            start, end = plan[stack.path]
            blocks = list(model.get_submodule(stack.path).children())
            ranges = [(n, n + 1) for n in range(start, end)] if stack.each else [(start, end)]
            for first, last in ranges:
                self._watch(stack, blocks[first], blocks[last - 1])

    def _begins(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = self._signature.bind(*args, **kwargs).arguments
        caches = given.get("kv_caches")
        self.counts = caches is None or caches[0].mode != "write"
        if not self.counts:
            return
        step, nth = self.calls[-1] if self.calls else (-1, 0)
        time = given.get(self.spec.timestep or "")
        same = time is not None and self._time is not None
        same = same and float(torch.as_tensor(time).max()) == self._time
        self._time = None if time is None else float(torch.as_tensor(time).max())
        self.calls.append((step, nth + 1) if same else (step + 1, 0))

    def _watch(self, stack: Stack, first: nn.Module, last: nn.Module) -> None:
        signature = inspect.signature(first.forward)
        entered: dict[str, Any] = {}
        residuals: dict[int, list[Any]] = {}

        def enters(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            entered.update(signature.bind(*args, **kwargs).arguments)
            # Given the very tensors that the stack before returned, the two are one.
            if self._left is not None and not stack.each:
                left, earlier = self._left
                names = set(stack.return_order)
                if left.keys() == names and all(entered[name] is left[name] for name in names):
                    entered.update(earlier)

        def leaves(module: nn.Module, args: tuple, output: Any) -> Any:
            if not self.counts:
                return None
            step, nth = self.calls[-1]
            before = [entered[name] for name in stack.return_order]
            after = list(output) if isinstance(output, tuple) else [output]
            kept = residuals.get(nth)
            fits = kept and all(b.shape == r.shape for b, r in zip(before, kept, strict=True))
            if step % 2 == 1 and kept and fits:
                self.skipped.add(self.calls[-1])
                restored = tuple(b + r for b, r in zip(before, kept, strict=True))
                note(restored, before)
                return restored if isinstance(output, tuple) else restored[0]
            residuals[nth] = [a - b for a, b in zip(after, before, strict=True)]
            note(after, before)
            return None

        def note(after: Any, before: Any) -> None:
            pairs = (dict(zip(stack.return_order, one, strict=True)) for one in (after, before))
            self._left = None if stack.each else tuple(pairs)  # type: ignore[assignment]

        first.register_forward_pre_hook(enters, with_kwargs=True)
        last.register_forward_hook(leaves)


def denoiser_of(pipe: Any, spec: Spec) -> Any:
    return next(part for part in pipe.components.values() if type(part).__name__ == spec.name)


def plan_of(model: nn.Module, spec: Spec) -> Plan:
    """Without the first block of the first stack, and without the last one of any other."""
    counts = {s.path: len(list(model.get_submodule(s.path).children())) for s in spec.stacks}
    first = spec.stacks[0].path
    return {path: (1, n) if path == first else (0, n - 1) for path, n in counts.items()}


def counted_blocks(model: nn.Module, spec: Spec) -> defaultdict[str, int]:
    """How often each block really runs, counted by torch's own hooks."""
    ran: defaultdict[str, int] = defaultdict(int)

    def count(name: str) -> Any:
        def ran_once(*_: Any) -> None:
            ran[name] += 1

        return ran_once

    for stack in spec.stacks:
        for n, block in enumerate(model.get_submodule(stack.path).children()):
            block.register_forward_hook(count(f"{stack.path}.{n}"))
    return ran
