"""The attention residual of every model with a spec, against gate times attention output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import autocache
from autocache.errors import ParameterError
from autocache.how import Reuse
from autocache.probe import AttentionResidual
from autocache.runtime.moment import Decision, Moment
from autocache.spec.bind import bind
from autocache.spec.registry import find
from autocache.when import When
from autocache.where import Blocks
from gated import GATES, watch
from tiny import build


class Recording(When):
    """Computes what it is told to, and remembers the probe of each call."""

    def __init__(self, probe: AttentionResidual, computed: str) -> None:
        self.probe = probe
        self.computed = computed
        self.seen: list[torch.Tensor | None] = []

    def decide(self, moment: Moment) -> Decision:
        compute = self.computed[moment.step] == "c"
        return Decision(compute, keep=compute)

    def learn(self, moment: Moment) -> None:
        self.seen.append(moment.probe)


def measured(model: nn.Module, inputs, probe: AttentionResidual, computed="ccrc", **options):
    rule = Recording(probe, computed)
    where = options.pop("where", Blocks())
    with autocache.patched(model, when=rule, where=where, how=Reuse(), **options), torch.no_grad():
        for step in range(len(computed)):
            model(**inputs(900 - 100 * step))
    return rule.seen


@pytest.mark.parametrize("block", [None, 0, 2])
@pytest.mark.parametrize("name", GATES)
def test_it_is_the_gated_attention_output(name, block):
    """In the chosen block, or the middle one; nothing is measured in a step that skips."""
    model, inputs = build(name)
    plain = copy.deepcopy(model)
    stack = find(model).stacks[0].path
    gated = watch(name, plain.get_submodule(stack)[1 if block is None else block])
    probes = measured(model, inputs, AttentionResidual(block), "ccrcc")
    for step, probe in enumerate(probes[:4]):
        with torch.no_grad():
            plain(**inputs(900 - 100 * step))
        if step == 2:
            assert probe is None
        else:
            assert probe.abs().max() > 0.01
            torch.testing.assert_close(probe, gated(), rtol=1e-5, atol=1e-5)


def test_a_dry_run_measures_what_a_real_run_would():
    """Nothing in a step that counts as skipped, although the block runs."""
    model, inputs = build("WanTransformer3DModel")
    probes = measured(model, inputs, AttentionResidual(), "ccrcc", dry_run=True)
    assert [probe is None for probe in probes[:4]] == [False, False, True, False]


def test_blocks_before_those_that_may_be_skipped_are_measured_as_well():
    """The block lies outside of the skipped range, so that it asks for the decision first."""
    model, inputs = build("DiTTransformer2DModel")
    skipping = {"where": Blocks((2, 3))}
    probes = measured(model, inputs, AttentionResidual(0), "ccrcc", **skipping)
    assert [probe is None for probe in probes[:4]] == [False, False, True, False]


def test_it_keeps_to_the_dtype_of_the_stream():
    """Wan hands float32 to its norms; the residual of a bfloat16 stream is no larger for that."""
    model, inputs = build("WanTransformer3DModel")
    model.to(torch.bfloat16)

    def cast(time: float):
        return {
            key: value.bfloat16() if isinstance(value, torch.Tensor) else value
            for key, value in inputs(time).items()
        }

    assert {probe.dtype for probe in measured(model, cast, AttentionResidual(), "cc")[:1]} == {
        torch.bfloat16
    }


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (AttentionResidual(3), "block 3 .* transformer_blocks .* 3 blocks"),
        (AttentionResidual(stack="single_transformer_blocks"), "lacks after_attention"),
        (AttentionResidual(stack="blocks"), "no block stack 'blocks'"),
    ],
)
def test_what_cannot_be_measured_is_said(probe, message):
    """A block that is not there, and a stack in which attention ends nowhere in particular."""
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(ParameterError, match=message):
        autocache.patch(model, when=Recording(probe, ""))
    assert not autocache.is_patched(model)
    assert bind(find(model), model).stack().spec.after_attention == "norm2"
