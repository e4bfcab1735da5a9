"""MagCache: tables, guidance branches, experts, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from pipelines.tiny_pipelines import make
from pipelines.tiny_pipelines import run as generate

import autocache
from autocache.errors import ParameterError
from autocache.spec.bind import bind
from autocache.spec.registry import find
from autocache.when import Magnitude
from tiny import build
from trajectory import run

RATIOS = (1.0, 1.3, 1.12, 1.055, 0.97, 1.03, 1.01, 0.99, 1.02, 0.96, 0.9, 0.84)


def recipe(model, **parameters):
    with autocache.patched(model, "magcache", **parameters) as patch:
        return patch.strategy.recipes(bind(patch.spec, model), dict(model.config))[0]


def test_a_checkpoint_gets_its_published_table():
    """FLUX.1-dev by its config: the ratios and the gentlest published settings."""
    model, _ = build("FluxTransformer2DModel")
    config = {"num_layers": 19, "num_single_layers": 38, "in_channels": 64, "guidance_embeds": True}
    model.register_to_config(**config)
    made = recipe(model)
    assert isinstance(made.when, Magnitude)
    assert (len(made.when.ratios), made.when.uncond) == (28, None)
    assert (made.when.threshold, made.when.retention) == (0.06, 0.2)
    assert made.limits.max_consecutive_skips == 3


def test_a_name_goes_before_a_config():
    """Checkpoints that share a config are told apart by what they were loaded from; the first of
    several tables is the official one."""
    model, _ = build("FluxTransformer2DModel")
    model.register_to_config(_name_or_path="black-forest-labs/FLUX.1-Kontext-dev")
    made = recipe(model)
    assert isinstance(made.when, Magnitude)
    assert len(made.when.ratios) == 28
    assert made.when.ratios[1] == 1.19531
    named = recipe(model, table="comfyui-flux1-kontext-20").when
    assert isinstance(named, Magnitude)
    assert len(named.ratios) == 20


def test_given_parameters_override_the_table():
    """What is not given is the table's, and without a table diffusers' default."""
    model, _ = build("WanTransformer3DModel")
    made = recipe(model, table="wan2.1-t2v-14b", threshold=0.1, retention_rounding="down")
    assert isinstance(made.when, Magnitude)
    assert (made.when.threshold, made.when.retention) == (0.1, 0.2)
    assert (made.when.round_down, made.when.strict) == (True, False)
    assert made.limits.max_consecutive_skips == 6
    made = recipe(model, table="wan2.1-t2v-14b", max_consecutive_skips=1)
    assert made.limits.max_consecutive_skips == 1
    made = recipe(model, ratios={"cond": RATIOS, "uncond": RATIOS[::-1]}, strict=True)
    assert isinstance(made.when, Magnitude)
    assert (made.when.threshold, made.when.retention, made.when.strict) == (0.06, 0.2, True)
    assert (made.when.ratios, made.when.uncond) == (RATIOS, RATIOS[::-1])
    assert made.limits.max_consecutive_skips == 3


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("WanTransformer3DModel", {}, "table= .*wan2.1-t2v-1.3b, wan2.1-.* ratios=, one per step"),
        ("CogVideoXTransformer3DModel", {}, r"this CogVideoX\w+: give ratios=.*R_\(i-1\)\|"),
        ("WanTransformer3DModel", {"table": "wan2.1-t2v"}, "wan2.1-t2v-14b"),
        ("WanTransformer3DModel", {"ratios": [1.0]}, "at least 2 items"),
        ("WanTransformer3DModel", {"ratios": [1.0, -1.0]}, "greater than 0"),
        ("WanTransformer3DModel", {"ratios": {"uncond": RATIOS}}, "'all' branches"),
        ("WanTransformer3DModel", {"ratios": RATIOS, "table": "x"}, "either a table or ratios"),
        ("WanTransformer3DModel", {"max_skip_steps": 2}, "max_skip_steps"),
    ],
)
def test_what_is_wrong_is_said(name, parameters, message):
    """Tables there are, how ratios are measured, and parameters out of range."""
    model, _ = build(name)
    with pytest.raises(ParameterError, match=message):
        autocache.patch(model, "magcache", **parameters)
    assert not autocache.is_patched(model)


def test_branches_follow_their_own_ratios():
    """A branch whose magnitudes change skips less than one whose do not, and neither sees the
    other's residual."""
    model, inputs = build("WanTransformer3DModel")
    steps = len(RATIOS)
    given = [inputs(900 - 60 * step) for step in range(steps)]
    other = [call | {"encoder_hidden_states": -call["encoder_hidden_states"]} for call in given]
    ratios = {"cond": (1.0,) * steps, "uncond": (1.0, *(1.04,) * (steps - 1))}

    def alone(calls, own):
        with autocache.patched(model, "magcache", ratios=own) as patch, torch.no_grad():
            outputs = [model(**call)[0] for call in calls]
            return outputs, [step.action for step in patch.stats().steps]

    conditional, first = alone(given, ratios["cond"])
    unconditional, second = alone(other, ratios["uncond"])
    with autocache.patched(model, "magcache", ratios=ratios) as patch, torch.no_grad():
        for step in range(steps):
            with model.cache_context("cond"):
                assert torch.equal(model(**given[step])[0], conditional[step])
            with model.cache_context("uncond"):
                assert torch.equal(model(**other[step])[0], unconditional[step])
        actions = [step.action for step in patch.stats().steps]
    assert (actions[::2], actions[1::2]) == (first, second)
    assert 0 < second.count("reused") < first.count("reused")


def test_memory():
    """Per guidance branch one residual of the stack: s."""
    model, inputs = build("WanTransformer3DModel")
    s = 2 * 4 * 4 * 24 * 4  # frames, height, width, channels, bytes
    with autocache.patched(model, "magcache", ratios=RATIOS) as patch, torch.no_grad():
        for step in range(len(RATIOS)):
            model(**inputs(900 - 60 * step))
        assert patch.stats().bytes_peak == s
        patch.reset()
        for step in range(len(RATIOS)):
            for branch in ("cond", "uncond"):
                with model.cache_context(branch):
                    model(**inputs(900 - 60 * step))
        assert patch.stats().bytes_peak == 2 * s


def test_two_experts():
    """Each retains its share of its own steps: the one that takes over is computed at first."""
    pipe = make("wan")
    options = {"ratios": (1.0,) * 20, "retention": 0.4, "max_consecutive_skips": 99}
    with autocache.patched(pipe, "magcache", **options) as patch:
        generate(pipe, steps=20)
        steps = patch.stats().steps
    computed = [step.step for step in steps if step.action == "computed"]
    takes_over = next(n for n in range(1, 20) if n >= 8 and n in computed)
    own = 20 - takes_over
    assert computed == [*range(8), *range(takes_over, takes_over + int(0.4 * own + 0.5))]
    assert 8 < takes_over < 20 - own * 0.4


def test_a_pipeline_and_its_second_generation():
    """Both skip the same steps and draw the same; off again, the plain pipeline draws as before."""
    pipe = make("flux")
    plain = generate(pipe, steps=12)
    with autocache.patched(pipe, "magcache", table="flux1-dev", threshold=0.3) as patch:
        first = generate(pipe, steps=12)
        assert torch.equal(first, generate(pipe, steps=12))
        actions = [step.action for step in patch.stats().steps]
    assert actions[:12] == actions[12:]
    assert {"computed", "reused"} == set(actions)
    assert not torch.equal(first, plain)
    assert torch.equal(plain, generate(pipe, steps=12))


def test_threshold_zero_is_the_plain_model():
    """It keeps nothing either."""
    model, inputs = build("DiTTransformer2DModel")
    plain = run(model, inputs, 8)
    with autocache.patched(model, "magcache", ratios=(1.0,) * 8, threshold=0) as patch:
        outputs = run(model, inputs, 8)
        assert patch.stats().bytes_peak == 0
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))


def test_a_dry_run_decides_as_a_real_run():
    """It computes everything, and tells the error of what would have been skipped."""
    model, inputs = build("WanTransformer3DModel")
    plain = run(model, inputs, 12)
    with autocache.patched(model, "magcache", ratios=RATIOS, dry_run=True) as patch:
        outputs = run(model, inputs, 12)
        dry = patch.stats().steps
    with autocache.patched(model, "magcache", ratios=RATIOS) as patch:
        run(model, inputs, 12)
        real = [step.action for step in patch.stats().steps]
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))
    assert [step.action for step in dry] == real
    assert [bool(step.error) for step in dry] == [action != "computed" for action in real]


def test_every_table_is_whole():
    """Each has ratios for all or for both branches, of one length, that start at one or near it."""
    names = ["Flux", "QwenImage"], ["Wan", "HunyuanVideo"]
    models = [f"{name}Transformer2DModel" for name in names[0]]
    models += [f"{name}Transformer3DModel" for name in names[1]]
    for name in models:
        spec = find(build(name)[0])
        assert spec is not None
        assert spec.magcache
        for table in spec.magcache:
            assert set(table.ratios) in ({"all"}, {"cond", "uncond"})
            assert len({len(ratios) for ratios in table.ratios.values()}) == 1
            assert all(0.3 < ratio < 3 for ratios in table.ratios.values() for ratio in ratios)
            assert table.threshold
            assert table.max_consecutive_skips
            assert table.retention
