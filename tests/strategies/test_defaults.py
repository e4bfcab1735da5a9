"""Without parameters a strategy does what was published for the checkpoint, or what fits it."""

from __future__ import annotations

import pytest
import torch

import autocache
from autocache.probe import Named
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.strategy import infos
from autocache.when import Accumulated, Interval
from autocache.where import Blocks
from tiny import build, pairs

EXACT = {"fewer_steps", "invariant"}
"""They skip no part of a step."""
STRATEGIES = [info.name for info in infos() if info.name not in EXACT]


def run(model, inputs, steps: int) -> list[torch.Tensor]:
    """Outputs of a bare loop at times falling from 900, on the model's own scale. The latent grows
    a little with every step."""
    outputs = []
    with torch.no_grad():
        for step in range(steps):
            given = inputs((900 - 800 * step / steps) / scale(model))
            latent = "sample" if "sample" in given else "hidden_states"
            given[latent] = given[latent] * (1 + step / 1000)
            outputs.append(model(**given)[0].clone())
    return outputs


def scale(model) -> float:
    found = registry.find(model)
    return found.timestep_scale if found else 1.0


WITNESS = {
    "adacache": {"codebook": "100"},
    "adastep": {"threshold": 1.0},
    "customcache": {"coefficients": (1.0, 0.0)},
    "dbcache": {"threshold": 0.9, "warmup_steps": 2},
    "easycache": {"threshold": 1e9, "warmup_steps": 2},
    "fbcache": {"threshold": 0.9},
    "magcache": {"ratios": [1.0, 1.2, 1.05, 1.02, 1.01, 1.0, 0.99, 0.95]},
    "schedule": {"steps": (0, 2, 4, 6), "total": 8},
    "teacache": {"coefficients": (1.0, 0.0)},
}
"""Where a default waits for changes smaller than random weights make, for more steps, for a table
of a published checkpoint, or to be told the steps."""


@pytest.mark.parametrize(("name", "strategy"), pairs(STRATEGIES))
def test_a_default_skips_something(name, strategy):
    """Every strategy, given no parameters, skips work on every model that it applies to."""
    model, inputs = build(name)
    with autocache.patched(model, strategy, **WITNESS.get(strategy, {})) as patch:
        run(model, inputs, 8)
        stats = patch.stats()
    assert 0.2 < stats.attention.share < 0.95
    actions = {step.action for step in stats.steps}
    assert actions in ({"computed", "reused"}, {"computed", "predicted"})
    assert stats.bytes_peak > 0


NEVER = {
    "adacache": {"codebook": [(1.0, 1)]},
    "adastep": {"threshold": 0},
    "attention": {"step_interval": 1},
    "auto": {"speedup": 1.0},
    "customcache": {"threshold": 0, "coefficients": (1.0, 0.0)},
    "deepcache": {"interval": 1},
    "dbcache": {"threshold": 0},
    "dicache": {"threshold": 0},
    "dit_block": {"step_interval": 1},
    "easycache": {"threshold": 0},
    "fastercache": {"attention_window": (-2, -1)},
    "fbcache": {"threshold": 0},
    "fora": {"interval": 1},
    "magcache": {"ratios": [1.0, 1.0], "threshold": 0},
    "pab": {"spatial_range": 1, "cross_range": 1},
    "schedule": {"steps": range(6), "total": 6},
    "seacache": {"threshold": 0},
    "taylorseer": {"interval": 1},
    "teacache": {"threshold": 0, "coefficients": (1.0, 0.0)},
}


@pytest.mark.parametrize(("name", "strategy"), pairs(STRATEGIES))
def test_never_skipping_is_bit_identical(name, strategy):
    """Patched but never skipping equals the plain model bit for bit, however that is asked for."""
    model, inputs = build(name)
    plain = run(model, inputs, 6)
    given = WITNESS.get(strategy, {})
    for options in (NEVER[strategy], {**given, "enabled": False}, {**given, "dry_run": True}):
        with autocache.patched(model, strategy, **options) as patch:
            again = run(model, inputs, 6)
            assert patch.stats().attention.share == 1.0
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)), options


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dry_run_tells_the_error_of_what_would_have_been_skipped(strategy):
    """A dry run takes the decisions of a real run on the same steps and measures their error."""
    options = WITNESS.get(strategy, {})
    model, inputs = build(pairs([strategy])[0][0])
    with autocache.patched(model, strategy, dry_run=True, **options) as patch:
        run(model, inputs, 8)
        dry = patch.stats().steps
    with autocache.patched(model, strategy, **options) as patch:
        run(model, inputs, 8)
        real = patch.stats().steps
    assert [step.action for step in dry] == [step.action for step in real]
    for step in dry:
        skipped = step.action != "computed"
        assert (step.error is not None and step.error > 0) == skipped


def recipe(strategy: str, model, **parameters):
    with autocache.patched(model, strategy, **parameters) as patch:
        return patch.strategy.recipe(bind(patch.spec, model), dict(model.config))


FLUX_DEV = {
    "num_layers": 19,
    "num_single_layers": 38,
    "in_channels": 64,
    "guidance_embeds": True,
    "attention_head_dim": 16,
    "num_attention_heads": 1,
}


def test_flux_dev_gets_its_published_presets():
    """A model configured as FLUX.1-dev gets MindIE's ranges and TeaCache's own coefficients."""
    model, _ = build("FluxTransformer2DModel", **FLUX_DEV)
    dit = recipe("dit_block", model)
    assert isinstance(dit.when, Interval)
    assert isinstance(dit.where, Blocks)
    assert (dit.when.bounds(50)[0], dit.when.interval) == (18, 2)
    assert dit.where.blocks == {
        "transformer_blocks": (5, 13),
        "single_transformer_blocks": (1, 23),
    }
    tea = recipe("teacache", model).when
    assert isinstance(tea, Accumulated)
    assert tea.coefficients[0] == 498.651651
    assert (tea.threshold, tea.relative, tea.probe) == (0.25, False, Named("modulated_input"))


def test_given_parameters_override_the_preset():
    """What the user gives stands; the preset fills in the rest."""
    model, _ = build("FluxTransformer2DModel", **FLUX_DEV)
    dit = recipe("dit_block", model, step_start=3, block_start=2, block_end=30)
    assert isinstance(dit.when, Interval)
    assert isinstance(dit.where, Blocks)
    assert (dit.when.bounds(50)[0], dit.when.interval) == (3, 2)
    assert dit.where.blocks == (2, 30)


def test_a_block_range_counts_over_all_stacks():
    """`block_start` and `block_end` number the blocks of all stacks in the order they run."""
    model, inputs = build("FluxTransformer2DModel")
    options = {"step_start": 0, "step_interval": 4, "block_start": 2, "block_end": 5}
    with autocache.patched(model, "dit_block", **options) as patch:
        run(model, inputs, 4)
        sites = patch.stats().steps[1].sites
    assert set(sites) == {"transformer_blocks[2:3]", "single_transformer_blocks[0:2]"}


def test_ret_steps_uses_its_own_coefficients_and_probe():
    """Wan's ret variant measures the time projection and protects five steps."""
    model, _ = build("WanTransformer3DModel")
    table = "wan2.1-t2v-1.3b-ret"
    made = recipe("teacache", model, table=table)
    when = made.when
    assert isinstance(when, Accumulated)
    assert (made.limits.warmup, made.limits.last) == (5, 0)
    assert when.probe == Named("time_projection")
    assert when.coefficients[0] == -52186.2437
    with pytest.raises(autocache.errors.ParameterError, match="use_ret_steps"):
        autocache.patch(model, "teacache", use_ret_steps=True)
    assert not autocache.is_patched(model)


def test_cross_attention_only_when_asked_for():
    """`kinds` chooses the attention modules; cross attention is not among the default ones."""
    model, inputs = build("WanTransformer3DModel")
    options = {"step_start": 0, "step_interval": 2}
    sites = {}
    for kinds in (("self", "joint"), ("cross",)):
        with autocache.patched(model, "attention", kinds=kinds, **options) as patch:
            run(model, inputs, 4)
            sites[kinds] = set(patch.stats().steps[1].sites)
    assert sites["self", "joint"] == {f"blocks.{n}.attn1" for n in range(3)}
    assert sites[("cross",)] == {f"blocks.{n}.attn2" for n in range(3)}
    with pytest.raises(autocache.errors.ParameterError, match="kinds of attention are cross, self"):
        autocache.patch(model, "attention", kinds=["temporal"])
