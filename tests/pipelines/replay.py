"""Every call of a pipeline made once more, on a plain model of its guidance branch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import autocache
from autocache.authoring.checks.reference import Recomposed
from autocache.authoring.instance import pipeline_of, run_loop
from autocache.runtime.record import StepRecord
from autocache.spec.schema import Spec, Stack

Ranges = dict[str, tuple[int, int]]


class Calls:
    """What a denoiser is called with and returns, as torch's own hooks see it."""

    def __init__(self, model: nn.Module) -> None:
        self.given: list[dict[str, Any]] = []
        self.outputs: list[torch.Tensor] = []
        self.processors: dict[str, Any] | None = None
        model.register_forward_pre_hook(self._enters, with_kwargs=True)
        model.register_forward_hook(self._leaves)

    def _enters(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        self.given.append(copy.deepcopy(dict(list(given.items())[1:])))
        # Those of perturbed attention are there only while the pipeline runs.
        self.processors = getattr(module, "attn_processors", None)

    def _leaves(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.outputs.append(output[0].clone())

    def counted(self) -> list[tuple[dict[str, Any], torch.Tensor]]:
        """Those that do not write the model's own caches."""
        pairs = zip(self.given, self.outputs, strict=True)
        return [pair for pair in pairs if pair[0].get("kv_cache_mode") != "extract"]


def _ranges(model: nn.Module, spec: Spec) -> Ranges:
    """Of each stack all but the first block, in the last of several all but the first and last."""
    lengths = {s.path: len(list(model.get_submodule(s.path).children())) for s in spec.stacks}
    ranges = {path: (1, length) for path, length in lengths.items()}
    if len(ranges) > 1:
        last = spec.stacks[-1].path
        ranges[last] = (1, lengths[last] - 1)
    return ranges


def replay(
    spec: Spec, label: str, ranges: Ranges | None = None, **options: Any
) -> tuple[StepRecord, ...]:
    """Replay the loop of that label."""
    pipe, plain = pipeline_of(spec, label), pipeline_of(spec, label).transformer
    return replayed(spec, pipe, plain, lambda: run_loop(spec, label, pipe, **options), ranges)


def replayed(
    spec: Spec,
    pipe: Any,
    plain: nn.Module,
    run: Callable[[], Any],
    ranges: Ranges | None = None,
) -> tuple[StepRecord, ...]:
    """Run a pipeline with a range of blocks skipped in every other step, then make each of its
    calls once more on a plain model of its branch, where entry plus residual takes the place of
    what is said to be skipped; they must be equal, bit for bit."""
    ranges = ranges or _ranges(plain, spec)
    own = {"step_start": 0, "step_interval": 2, "blocks": ranges}
    patch = autocache.patch(pipe, "dit_block", **own)
    calls = Calls(pipe.transformer)
    run()
    records = patch.stats().steps
    counted = calls.counted()
    assert len(records) == len(counted)
    for branch in {record.branch for record in records}:
        alone = copy.deepcopy(plain)
        if calls.processors is not None:
            model: Any = alone
            model.set_attn_processor(dict(calls.processors))
        pairs = zip(records, counted, strict=True)
        mine = [(record, *call) for record, call in pairs if record.branch == branch]
        _equal(alone, mine, {stack.path: stack for stack in spec.stacks}, ranges)
    return records


def _equal(model: nn.Module, calls: list, stacks: dict[str, Stack], ranges: Ranges) -> None:
    skips = [record.blocks_skipped > 0 for record, _, _ in calls]
    reference = Recomposed(model, stacks, ranges) if any(skips) else None
    for (record, given, output), skip in zip(calls, skips, strict=True):
        if reference is not None:
            reference.skipping = skip
        with torch.no_grad():
            assert torch.equal(model(**given)[0], output), record
