"""What is skipped is not run, and what stands in is exactly entry plus residual."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import counted
from torch import nn

import autocache
import tiny

TEXT_FIRST = ("encoder_hidden_states", "hidden_states")
IMAGE_FIRST = ("hidden_states", "encoder_hidden_states")
STACKS: dict[str, dict[str, tuple[str, ...]]] = {
    "FluxTransformer2DModel": {
        "transformer_blocks": TEXT_FIRST,
        "single_transformer_blocks": TEXT_FIRST,
    },
    "WanTransformer3DModel": {"blocks": ("hidden_states",)},
    "QwenImageTransformer2DModel": {"transformer_blocks": TEXT_FIRST},
    "HunyuanVideoTransformer3DModel": {
        "transformer_blocks": IMAGE_FIRST,
        "single_transformer_blocks": IMAGE_FIRST,
    },
    "CogVideoXTransformer3DModel": {"transformer_blocks": IMAGE_FIRST},
    "DiTTransformer2DModel": {"transformer_blocks": ("hidden_states",)},
}
"""Per block list, what its blocks return, in that order."""
Plan = dict[str, tuple[int, int]]


class Recomposed:
    """A plain model whose ranges of blocks are replaced, on demand, by entry plus residual."""

    def __init__(self, model: nn.Module, name: str, ranges: Plan) -> None:
        self.skipping = False
        self.model = model
        self._left: tuple[tuple[str, ...], tuple[torch.Tensor, ...], list[torch.Tensor]] | None = (
            None
        )
        for path, (start, end) in ranges.items():
            blocks, streams = model.get_submodule(path), STACKS[name][path]
            self._watch(blocks[start], blocks[end - 1], streams)

    def _watch(self, first: nn.Module, last: nn.Module, streams: tuple[str, ...]) -> None:
        signature = inspect.signature(first.forward)
        entry: list[torch.Tensor] = []
        residual: list[torch.Tensor] = []

        def enters(module: nn.Module, args: tuple, kwargs: dict) -> None:
            given = signature.bind(*args, **kwargs).arguments
            entry[:] = [given[name].clone() for name in streams]
            # Given the very tensors that the stack before returned, the two are one.
            if self._left is not None and self._left[0] == streams:
                pairs = zip(streams, self._left[1], strict=True)
                if all(given[name] is left for name, left in pairs):
                    entry[:] = self._left[2]

        def leaves(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            bare = not isinstance(output, tuple)
            outputs = (output,) if bare else output
            if not self.skipping:
                pairs = zip(outputs, entry, strict=True)
                residual[:] = [after - before for after, before in pairs]
                self._left = streams, outputs, [*entry]
                return None
            pairs = zip(entry, residual, strict=True)
            restored = tuple(before + added for before, added in pairs)
            self._left = streams, restored, [*entry]
            return restored[0] if bare else restored

        first.register_forward_pre_hook(enters, with_kwargs=True)
        last.register_forward_hook(leaves, with_kwargs=True)

    def __call__(self, given: dict[str, Any], skip: bool) -> torch.Tensor:
        self.skipping = skip
        with torch.no_grad():
            return self.model(**given)[0]


def _given(inputs: Callable, name: str, step: int) -> dict[str, Any]:
    time = 0.9 - 0.1 * step
    scaled = time if name.startswith(("Flux", "Qwen")) else 1000 * time
    given = inputs(7 - step if name.startswith("DiT") else scaled)
    given["hidden_states"] = given["hidden_states"] * (1 + 0.05 * step)
    return given


def _equal_at_every_step(
    name: str, plan: Plan, skips: list[bool], strategy: str, **options: Any
) -> None:
    model, inputs = tiny.build(name)
    reference = Recomposed(copy.deepcopy(model), name, plan)
    plain = copy.deepcopy(model)
    patch = autocache.patch(model, tiny.choice(strategy), **options)
    blocks = sum(len(model.get_submodule(path)) for path in STACKS[name])
    skipped = sum(end - start for start, end in plan.values())
    for step, skip in enumerate(skips):
        given = _given(inputs, name, step)
        with counted(model) as counts, torch.no_grad():
            output = model(**copy.deepcopy(given))[0]
        assert torch.equal(output, reference(copy.deepcopy(given), skip)), step
        assert torch.equal(output, plain(**given)[0]) is not skip
        ran = blocks - skipped if skip else blocks
        assert counts["block"].total() == counts["attention"].total() == ran
        assert patch.stats().steps[-1].blocks_skipped == blocks - ran
        assert patch.stats().steps[-1].action == ("reused" if skip else "computed")
    total = blocks * len(skips)
    assert patch.stats().blocks.total == total
    assert patch.stats().blocks.run == total - skipped * sum(skips)


def _partial(name: str) -> Plan:
    """A different range in each stack."""
    return dict(zip(STACKS[name], [(1, 3), (0, 2)], strict=False))


@pytest.mark.parametrize("interval", [2, 3])
@pytest.mark.parametrize("name", STACKS)
def test_ranges(name: str, interval: int) -> None:
    """dit_block over ranges of each stack is the plain model with those ranges recomposed."""
    ranges = _partial(name)
    fixed = {"step_start": 1, "step_interval": interval, "blocks": ranges}
    skips = [step > 1 and (step - 1) % interval != 0 for step in range(7)]
    _equal_at_every_step(name, ranges, skips, "dit_block", **fixed)


@pytest.mark.parametrize("name", STACKS)
def test_one_block(name: str) -> None:
    """A range of a single block is recomposed just so."""
    path = next(iter(STACKS[name]))
    ranges = {path: (1, 2)}
    fixed = {"step_start": 0, "step_interval": 2, "step_end": 4, "blocks": ranges}
    skips = [False, True, False, True, False, False, False]
    _equal_at_every_step(name, ranges, skips, "dit_block", **fixed)


@pytest.mark.parametrize("name", STACKS)
def test_whole_stacks(name: str) -> None:
    """TeaCache skips all blocks of all stacks, each recomposed with its own residual."""
    model, _ = tiny.build(name)
    ranges = {path: (0, len(model.get_submodule(path))) for path in STACKS[name]}
    fixed = {"threshold": 1e9, "max_consecutive_skips": 2}
    skips = [False, True, True, False, True, True, False]
    _equal_at_every_step(name, ranges, skips, "teacache", **fixed)


@pytest.mark.parametrize("kept", ["self", "cross"])
@pytest.mark.parametrize("name", STACKS)
def test_attention_outputs(name: str, kept: str) -> None:
    """Reused attention is the plain model with each attention output of the last computed step."""
    if kept == "cross" and name != "WanTransformer3DModel":
        kept = "joint"
    model, inputs = tiny.build(name)
    plain = copy.deepcopy(model)
    kinds = ("cross",) if kept == "cross" else ("self", "joint")
    inside = "attn2" if kept == "cross" else "attn" if hasattr(_first(model), "attn") else "attn1"
    outputs: dict[nn.Module, Any] = {}
    reuse = [False]

    def leaves(module: nn.Module, args: tuple, output: Any) -> Any:
        if reuse[0]:
            return outputs[module]
        outputs[module] = copy.deepcopy(output)
        return None

    for path in STACKS[name]:
        for block in plain.get_submodule(path):
            block.get_submodule(inside).register_forward_hook(leaves)
    patch = autocache.patch(model, "attention", step_start=0, step_interval=2, kinds=kinds)
    for step in range(5):
        reuse[0] = step % 2 == 1
        given = _given(inputs, name, step)
        with torch.no_grad(), counted(model) as counts:
            output = model(**copy.deepcopy(given))[0]
            assert torch.equal(output, plain(**given)[0])
        blocks = sum(len(model.get_submodule(path)) for path in STACKS[name])
        skipped = blocks if reuse[0] else 0
        assert counts["block"].total() == blocks
        assert patch.stats().steps[-1].attention_skipped == skipped
        if kept != "cross":
            assert counts["attention"].total() == blocks - skipped


def _first(model: nn.Module) -> nn.Module:
    return model.get_submodule(next(iter(STACKS[type(model).__name__])))[0]
