"""First Block Cache on scalars and on tiny models. `tests/parity` compares it with diffusers'."""

from __future__ import annotations

import pytest
import torch

import autocache
from tiny import SHAPES, build
from toy import SPEC, ToyDenoiser, added, executed
from trajectory import NAMES, run

FLOAT = 4
FLUX_IMAGE, FLUX_TEXT = 16 * 32 * FLOAT, 12 * 32 * FLOAT
"""Bytes of the two streams of the tiny Flux."""

# Block 0 adds i + 1 at step i, so the change since the computed step c is (i - c) / (c + 1), and
# a skipped step of four blocks adds i + 1 and the 9 (c + 1) of the other three.
GOLDEN = [
    (0.5, "CCCrCrrCrr", [10, 20, 30, 31, 50, 51, 52, 80, 81, 82]),
    (0.21, "CCCCCrCrCr", [10, 20, 30, 40, 50, 51, 70, 71, 90, 91]),
    (1.5, "CrCrrrrCrr", [10, 11, 30, 31, 32, 33, 34, 80, 81, 82]),
]


@pytest.mark.parametrize(("threshold", "trace", "sums"), GOLDEN)
def test_scalars(threshold, trace, sums):
    """The first block always runs; the others add what they did in the last computed step."""
    model = ToyDenoiser(4)
    with autocache.patched(model, "fbcache", spec=SPEC, threshold=threshold):
        assert added(model, 10) == sums
        assert executed(model, 10) == [{"C": "CCCC", "r": "Crrr"}[letter] for letter in trace]
        assert added(model, 10) == sums


def test_a_change_of_the_threshold_is_computed():
    """At step 2 the change is exactly a half: computed, where diffusers would skip."""
    model = ToyDenoiser(2)
    with autocache.patched(model, "fbcache", spec=SPEC, threshold=0.5):
        added(model, 3)
    assert executed(model, 3) == ["CC", "CC", "CC"]


def test_the_step_before_as_the_reference_never_notices_a_drift():
    """As LightX2V's: each step is close to the one before, and nothing is computed any more."""
    model = ToyDenoiser(4)
    options = {"threshold": 0.4, "reference": "previous_step"}
    with autocache.patched(model, "fbcache", spec=SPEC, **options):
        added(model, 12)
    assert executed(model, 12) == ["CCCC"] * 3 + ["Crrr"] * 9


@pytest.mark.parametrize("name", NAMES)
def test_every_block_but_the_first_is_skipped(name):
    """One decision goes for all stacks of a model."""
    model, inputs = build(name)
    with autocache.patched(model, "fbcache", threshold=0.9) as patch:
        run(model, inputs, 8)
        records = patch.stats().steps
    skipped = {record.blocks_skipped for record in records}
    assert skipped == {0, records[0].blocks_total - 1}


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_of_zero_computes_everything(name):
    """Bit for bit the plain model, with nothing kept."""
    model, inputs = build(name)
    plain = run(model, inputs, 6)
    with autocache.patched(model, "fbcache", threshold=0) as patch:
        assert all(map(torch.equal, run(model, inputs, 6), plain))
        assert patch.stats().bytes_peak == 0
    assert all(map(torch.equal, run(model, inputs, 6), plain))


@pytest.mark.parametrize("downsample", [1, 2])
def test_memory(downsample):
    """The first block's residual, and both streams' residual of the two stacks together."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"threshold": 0.3, "downsample": downsample}
    with autocache.patched(model, "fbcache", **options) as patch:
        run(model, inputs, 12)
        stats = patch.stats()
    assert stats.bytes_peak == FLUX_IMAGE // downsample + FLUX_IMAGE + FLUX_TEXT
    assert 0 < sum(step.action == "reused" for step in stats.steps) < 11


def test_a_dry_run_takes_the_same_decisions():
    """It computes everything, on the decisions of a real run, and tells the error."""
    model, inputs = build("FluxTransformer2DModel")
    plain = run(model, inputs, 12)
    with autocache.patched(model, "fbcache", threshold=0.3) as patch:
        run(model, inputs, 12)
        real = [step.action for step in patch.stats().steps]
    with autocache.patched(model, "fbcache", threshold=0.3, dry_run=True) as patch:
        assert all(map(torch.equal, run(model, inputs, 12), plain))
        dry = patch.stats().steps
    assert [step.action for step in dry] == real
    assert all((step.error or 0) > 0 for step in dry if step.action == "reused")


def test_a_batch_that_changes_starts_again():
    """What was kept for other shapes is not compared with."""
    model, inputs = build("WanTransformer3DModel")
    latent = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    assert latent.shape == SHAPES["WanTransformer3DModel"]["hidden_states"]
    with autocache.patched(model, "fbcache", threshold=0.9) as patch, torch.no_grad():
        for step, count in enumerate([1, 1, 2, 2]):
            given = inputs(900.0 - step)
            given["hidden_states"] = latent.expand(count, -1, -1, -1, -1)
            for key in ("timestep", "encoder_hidden_states"):
                given[key] = given[key].expand(count, *given[key].shape[1:])
            model(**given)
        actions = [step.action for step in patch.stats().steps]
    assert actions == ["computed", "reused", "computed", "reused"]


def test_a_model_of_one_block_has_nothing_to_skip():
    """The error says so, and the model stays as it was."""
    model, _ = build("WanTransformer3DModel", num_layers=1)
    with pytest.raises(autocache.errors.ParameterError, match="none of the 1"):
        autocache.patch(model, "fbcache")
    assert not autocache.is_patched(model)
