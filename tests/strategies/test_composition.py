"""Several strategies on one model."""

from __future__ import annotations

import pytest
import torch
from pipelines.tiny_pipelines import make, run

import autocache
import tiny
from autocache.errors import ParameterError, PatchError, UnknownStrategyError

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"


def test_a_list_is_a_strategy_with_a_name_and_parameters():
    """Names, pairs and objects may be mixed; what is reported names all of them."""
    pipe = make("flux")
    chosen = [("fbcache", {"threshold": 0.3}), "invariant", ("fewer_steps", {"steps": 8})]
    with autocache.patched(pipe, chosen) as patch:
        assert str(patch.strategy) == "fbcache(threshold=0.3)+invariant+fewer_steps(steps=8)"
        run(pipe, steps=20)
        stats = patch.stats()
    assert stats.strategy == "fbcache+invariant+fewer_steps"
    assert stats.parameters == {
        "fbcache": {"threshold": 0.3},
        "invariant": {},
        "fewer_steps": {"steps": 8},
    }
    assert stats.passes == 8
    reference = make("flux")
    with autocache.patched(reference, "fbcache", threshold=0.3) as patch:
        run(reference, steps=8)
        assert patch.stats().blocks == stats.blocks


def test_parameters_beside_a_list_are_the_first_ones():
    """`patch(pipe, [a, b], x=1)` gives `x` to `a`; the pair's own give way to it."""
    model, _ = tiny.build(FLUX)
    with autocache.patched(model, ["fbcache", "invariant"], threshold=0.2) as patch:
        assert patch.strategy.parameters()["fbcache"] == {"threshold": 0.2}
    pair = ("fbcache", {"threshold": 0.1})
    with autocache.patched(model, [pair, "invariant"], threshold=0.2) as patch:
        assert patch.strategy.parameters()["fbcache"] == {"threshold": 0.2}
    with autocache.patched(model, pair) as patch:
        assert str(patch.strategy) == "fbcache(threshold=0.1)"
    with autocache.patched(model, [pair]) as patch:
        assert str(patch.strategy) == "fbcache(threshold=0.1)"


def test_apart_they_do_what_each_does_alone():
    """Two strategies in different blocks skip what they skip by themselves."""
    halves = ({"blocks": (0, 3), "step_interval": 2}, {"blocks": (3, 6), "step_interval": 3})
    start = {"step_start": 0}
    model, inputs = tiny.build(FLUX)
    together = [("dit_block", start | half) for half in halves]
    times = [0.9 - 0.1 * step for step in range(7)]
    skipped = []
    for strategy in (together, together[0], together[1]):
        with autocache.patched(model, strategy) as patch, torch.no_grad():
            for time in times:
                model(**inputs(time))
            skipped.append([step.blocks_skipped for step in patch.stats().steps])
    assert skipped[0] == [a + b for a, b in zip(*skipped[1:], strict=True)]
    assert skipped[1] != skipped[2]


REFUSED = [
    (["fbcache", "dit_block"], "fbcache and dit_block cannot be combined: both may skip tr"),
    (["fbcache", "attention"], "fbcache and attention cannot be combined: both may skip"),
    (["adastep", "attention"], "adastep and attention cannot be combined: both may skip"),
    (["adastep", "fbcache"], "adastep and fbcache cannot be combined"),
    (["adastep", "easycache"], "both may skip the whole FluxTransformer2DModel"),
    (["invariant", "attention", "dit_block"], "attention and dit_block cannot be combined"),
    (["fewer_steps", "fewer_steps"], "both choose the timesteps"),
]


@pytest.mark.parametrize(("chosen", "message"), REFUSED)
def test_what_would_act_on_the_same_places_is_refused(chosen, message):
    """The reason is given, and the pipeline keeps the patch that it had."""
    pipe = make("flux")
    before = autocache.patch(pipe, "fbcache")
    expected = run(pipe)
    with pytest.raises(PatchError, match=message):
        autocache.patch(pipe, chosen)
    assert torch.equal(run(pipe), expected)
    assert autocache.stats(pipe).strategy == "fbcache"
    before.unpatch()
    with pytest.raises(PatchError, match=message):
        autocache.patch(pipe, chosen)
    assert not autocache.is_patched(pipe)


ALLOWED = [
    ["adastep", "invariant"],
    ["adastep", "fewer_steps", "invariant"],
    ["easycache", "fewer_steps"],
    [tiny.choice("teacache"), "invariant"],
    ["attention", "invariant", "fewer_steps"],
    [
        ("attention", {"blocks": {"transformer_blocks": (0, 3)}}),
        ("dicache", {"blocks": {"single_transformer_blocks": (0, 3)}}),
    ],
]


@pytest.mark.parametrize("chosen", ALLOWED)
def test_what_keeps_apart_is_not(chosen):
    """They run, twice alike, and leave no trace."""
    pipe = make("flux")
    plain = run(pipe, steps=6)
    with autocache.patched(pipe, chosen):
        assert torch.equal(run(pipe, steps=6), run(pipe, steps=6))
    assert torch.equal(run(pipe, steps=6), plain)
    assert "_compiled_call_impl" not in vars(pipe.transformer)


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        ([], ParameterError, "the list of strategies is empty"),
        (["teacache", "invarient"], UnknownStrategyError, "did you mean 'invariant'"),
        (["teacache", ("invariant", {"threshold": 1})], ParameterError, "invariant has no param"),
        (["teacache", 3], ParameterError, "strategy is 3"),
    ],
)
def test_wrong_lists(chosen, error, message):
    """What is wrong with a member is said as for the member alone."""
    model, _ = tiny.build(FLUX)
    with pytest.raises(error, match=message):
        autocache.patch(model, chosen)
    assert not autocache.is_patched(model)


def test_one_member_that_does_not_fit_leaves_everything_as_it_was():
    """All or nothing, also over two experts."""
    pipe = make("wan")
    with pytest.raises(ParameterError, match="temporal"):
        autocache.patch(pipe, ["invariant", ("attention", {"kinds": ["temporal"]})])
    assert not autocache.is_patched(pipe)
    assert not any("_autocache_site" in vars(m) for m in pipe.transformer.modules())


def test_a_spec_is_needed_as_soon_as_one_member_needs_it():
    """What skips whole calls runs on a foreign model; with a member that looks inside it cannot."""

    class Foreign(torch.nn.Module):
        def forward(self, x, t):
            return x * t

    with autocache.patched(Foreign(), ["easycache", "fewer_steps"]):
        pass
    with pytest.raises(autocache.errors.UnknownModelError):
        autocache.patch(Foreign(), ["easycache", "invariant"])
