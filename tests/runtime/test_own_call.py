"""A module is called as its class calls it, whoever stands before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.spec.schema import Spec
from toy import SPEC, ToyBlock, ToyDenoiser, added, executed

STEPS = 6
NEVER, SKIPPING = {"step_interval": 1}, {"step_start": 1, "step_interval": 2, "step_end": STEPS}


class CountingBlock(ToyBlock):
    """Has a `__call__` of its own, as blocks that are kernels or proxies have."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().__call__(*args, **kwargs)


def counting() -> tuple[ToyDenoiser, Callable[[], list[int]]]:
    """Whose blocks count in their own `__call__`."""
    model = ToyDenoiser(4)
    blocks = [CountingBlock(number) for number in range(4)]
    model.blocks = nn.ModuleList(blocks)
    return model, lambda: [block.calls for block in blocks]


def compiled() -> tuple[ToyDenoiser, Callable[[], list[int]]]:
    """Whose blocks have something compiled in the place of torch's call."""
    model = ToyDenoiser(4)
    calls = [0] * 4

    def stand_in(nth: int, block: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[nth] += 1
            return block._call_impl(*args, **kwargs)

        return call

    for nth, block in enumerate(model.blocks):
        block._compiled_call_impl = stand_in(nth, block)  # as nn.Module.compile does
    return model, lambda: calls


@pytest.mark.parametrize("make", [counting, compiled])
@pytest.mark.parametrize("when", [NEVER, SKIPPING], ids=["idle", "skipping"])
def test_what_runs_is_called_as_before(
    make: Callable[[], tuple[ToyDenoiser, Callable[[], list[int]]]], when: dict[str, int]
) -> None:
    """Once for each time that a block runs."""
    model, calls = make()
    spec = Spec.model_validate(
        SPEC.model_dump(by_alias=True)
        | {"stacks": [{**SPEC.stacks[0].model_dump(), "block": type(model.blocks[0]).__name__}]}
    )
    with torch.no_grad(), autocache.patched(model, "dit_block", spec=spec, **when):
        added(model, STEPS)
    ran = executed(model, STEPS)
    assert calls() == [sum(step[nth] == "C" for step in ran) for nth in range(4)]
    assert ("r" in "".join(ran)) == (when is SKIPPING)


def test_torchs_hooks_run_where_a_module_runs() -> None:
    """Before and after it, and not where it is skipped."""
    model = ToyDenoiser(4)
    seen: list[str] = []
    model.blocks[1].register_forward_pre_hook(lambda *_: seen.append("before"))
    model.blocks[1].register_forward_hook(lambda *_: seen.append("after"))
    with torch.no_grad(), autocache.patched(model, "dit_block", spec=SPEC, **SKIPPING):
        added(model, STEPS)
    ran = [step[1] for step in executed(model, STEPS)].count("C")
    assert 0 < ran < STEPS
    assert seen == ["before", "after"] * ran
