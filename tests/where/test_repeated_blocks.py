"""Blocks that a model runs several times in one call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import autocache
from autocache.authoring.checks.subject import counted
from autocache.authoring.instance import inputs_of, model_of
from autocache.runtime.store import Ledger, Store
from autocache.spec import registry

NAME = "RFD4ProteinaTransformer"
PASSES = 3


def given(step: int) -> dict[str, Any]:
    return inputs_of(registry.resolve(NAME, None), step) | {"recycle_depth": PASSES}


def test_the_last_pass_is_kept() -> None:
    """In every pass of a skipped step a block adds what it added in the last pass of the full one,
    and counts once."""
    model = model_of(registry.resolve(NAME, None))
    plain = copy.deepcopy(model)
    residuals: dict[int, torch.Tensor] = {}
    filling = False

    def leaves(number: int) -> Any:
        def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> Any:
            if filling:
                return args[0] + residuals[number]
            residuals[number] = output - args[0]
            return None

        return hook

    for number, block in enumerate(plain.get_submodule("transformer_layers").children()):
        if number in (1, 2):
            block.register_forward_hook(leaves(number))
    options = {"step_start": 0, "step_interval": 2, "blocks": (1, 3)}
    patch = autocache.patch(model, "dit_block", **options)
    for step in range(4):
        filling = step % 2 == 1
        with torch.no_grad(), counted(model) as ran:
            found = model(**given(step))
        with torch.no_grad():
            expected = plain(**given(step))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other), step
        runs = [ran[f"transformer_layers.{number}.mhba"] for number in range(4)]
        assert runs == ([3, 0, 0, 3] if filling else [3, 3, 3, 3])
        assert patch.stats().steps[-1].blocks_skipped == (2 if filling else 0)


@pytest.mark.parametrize("strategy", ["taylorseer", "fbcache", "attention", "dicache", "teacache"])
def test_strategies_on_repeated_blocks(strategy: str) -> None:
    """A series in steps has one value for each step, however often a block runs in it."""
    options: dict[str, Any] = {"coefficients": (1.0, 0.0)} if strategy == "teacache" else {}
    model = model_of(registry.resolve(NAME, None))
    with autocache.patched(model, strategy, **options), torch.no_grad():
        for step in range(8):
            assert all(output.isfinite().all() for output in model(**given(step)))


def test_the_store_has_one_value_for_each_step() -> None:
    """The second tensor of a step takes the place of the first, also in what is accounted for."""
    ledger = Ledger()
    store = Store(ledger)
    for step, value in [(0, 1.0), (0, 2.0), (1, 3.0), (1, 4.0), (2, 5.0)]:
        store.put("key", torch.full((4,), value), step, keep=2)
    assert [(v.step, float(v.tensor[0])) for v in store.get("key")] == [(1, 4.0), (2, 5.0)]
    assert ledger.held == 2 * 16
