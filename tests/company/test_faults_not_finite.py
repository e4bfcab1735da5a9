"""NaN or Inf where a rule measures: computed, counted and told, and no other step is spoilt."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from company import eager
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.how import Reuse
from autocache.probe import Named
from autocache.runtime.moment import Decision, Moment
from autocache.when import Accumulated, Guarded, When
from autocache.where import Blocks

STEPS = 14
WAN = "WanTransformer3DModel"
EARLY = {"warmup_steps": 1, "last_steps": 0}
MEASURING: dict[str, tuple[str, dict[str, Any]]] = {
    "adacache": ("adacache", {"codebook": ((1e9, 2),), "last_steps": 0}),
    "adacache, motion": ("adacache", {"codebook": ((1e9, 2),), "last_steps": 0, "moreg": True}),
    "adastep": ("adastep", {"threshold": 1e9, "last_steps": 0}),
    "auto": ("auto", {"max_error": 1e9, "speedup": 2.0}),
    "customcache": ("customcache", {"coefficients": (1.0, 0.0), "threshold": 1e4, **EARLY}),
    "dbcache": ("dbcache", {"fn": 1, "threshold": 0.9, **EARLY}),
    "dbcache, previous": (
        "dbcache",
        {"fn": 1, "threshold": 0.9, "reference": "previous_step", **EARLY},
    ),
    "dbcache, sum": (
        "dbcache",
        {"fn": 1, "threshold": 0.9, "accumulated_limit": 2.0, "downsample": 2, **EARLY},
    ),
    "dicache": ("dicache", {"threshold": 1e4, **EARLY}),
    "dicache, minus": ("dicache", {"threshold": 1e4, "error": "delta_minus", **EARLY}),
    "easycache": ("easycache", {"threshold": 1e4, **EARLY}),
    "fbcache": ("fbcache", {"threshold": 0.9, **EARLY}),
    "seacache": ("seacache", {"threshold": 1e4, **EARLY}),
    "teacache": ("teacache", {"coefficients": (1.0, 0.0), "threshold": 1e4, **EARLY}),
    "teacache, falling": ("teacache", {"coefficients": (-1.0, 1.0), "threshold": 1e4, **EARLY}),
}
"""Every strategy that measures anything, under options with which it nearly always skips."""
ON_COMPUTED = {"adacache", "adacache, motion", "auto"}
"""Those that measure computed steps only, and decide on later ones."""
ANEW = {
    "customcache",
    "dbcache",
    "dbcache, previous",
    "dbcache, sum",
    "dicache",
    "dicache, minus",
    "fbcache",
    "seacache",
    "teacache",
}
"""Those that know no more after such a step than at the start of a generation."""
BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
SCHEDULES: dict[str, dict[str, Any]] = {
    "auto": {},
    "attention": {},
    "deepcache": {},
    "dit_block": {"step_start": 0, "step_interval": 2},
    "fora": {},
    "magcache": {"ratios": (0.97,) * STEPS, "warmup_steps": 1, "max_consecutive_skips": 1},
    "pab": {},
    "schedule": {"steps": tuple(range(0, STEPS, 2)), "total": STEPS},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 1},
}
SCHEDULED = [pair for pair in tiny.pairs(SCHEDULES) if pair[0] in (WAN, *tiny.UNETS)]


def loop(
    model: nn.Module,
    inputs: Callable[[float], dict[str, Any]],
    spoilt: dict[int, float] | None = None,
    start: int = 0,
) -> list[torch.Tensor]:
    """A sampling loop of one's own: the latent of every step, of some of them one number spoilt."""
    made = []
    for step in range(start, STEPS):
        given = inputs(950.0 - 60 * step)
        name = "sample" if "sample" in given else "hidden_states"
        given[name] = given[name] * (1 + 0.05 * step)
        if spoilt and step in spoilt:
            given[name].flatten()[5] = spoilt[step]
        with torch.no_grad():
            made.append(model(**given)[0].clone())
    return made


def patched(case: str) -> tuple[nn.Module, Any, autocache.Patch]:
    model, inputs = tiny.build(WAN)
    strategy, options = MEASURING[case]
    return model, inputs, autocache.patch(model, strategy, **options)


def drawn(patch: autocache.Patch) -> str:
    return "".join("C" if s.action == "computed" else "r" for s in patch.stats().steps)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "NaN or Inf" in text]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("case", MEASURING)
def test_a_step_that_is_not_finite(case: str, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is computed and counted, no other step's output sees it, and skipping goes on after it:
    of the rules that know nothing of earlier steps just as in a generation that starts there."""
    model, inputs, patch = patched(case)
    untouched = loop(model, inputs)
    usual = drawn(patch)
    assert "r" in usual
    assert patch.stats().not_finite == 0
    wanted = "C" if case in ON_COMPUTED else "r"
    at = usual.index(wanted, 4)
    patch.reset()
    outputs = loop(model, inputs, {at: BAD[bad]})
    stats, trace = patch.stats(), drawn(patch)
    assert trace[:at] == usual[:at]
    assert trace[at] == "C"
    assert "r" in trace[at + 1 :]
    assert not outputs[at].isfinite().all()
    assert all(o.isfinite().all() for n, o in enumerate(outputs) if n != at)
    assert all(torch.equal(a, b) for a, b in zip(outputs[:at], untouched[:at], strict=True))
    assert stats.not_finite == sum(step.not_finite for step in stats.steps) == 1
    assert "not finite" in str(stats)
    assert json.loads(json.dumps(stats.to_dict(), allow_nan=False))["not_finite"] == 1
    if case in ANEW:
        patch.reset()
        again = loop(model, inputs, start=at + 1)
        assert drawn(patch) == trace[at + 1 :]
        assert all(torch.equal(a, b) for a, b in zip(again, outputs[at + 1 :], strict=True))


@pytest.mark.parametrize("case", MEASURING)
def test_it_is_told_once(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """However many there are: in the log once, in the stats each; and the next generation is as
    if there had been none."""
    model, inputs, patch = patched(case)
    expected = loop(model, inputs)
    patch.reset()
    with caplog.at_level(logging.WARNING, "autocache"):
        loop(model, inputs, dict.fromkeys(range(5, STEPS), math.nan))
        loop(model, inputs, dict.fromkeys(range(5, STEPS), math.nan))
    (text,) = warned(caplog)
    assert MEASURING[case][0] in text
    assert WAN in text
    assert patch.stats().not_finite >= 4
    assert all(map(torch.equal, loop(model, inputs), expected))


@pytest.mark.parametrize("case", ["fbcache", "teacache", "easycache", "dicache"])
def test_the_first_step_of_all(case: str) -> None:
    """It has nothing to be compared with, and must not be what later ones are compared with."""
    model, inputs, patch = patched(case)
    outputs = loop(model, inputs, {0: math.nan})
    assert all(output.isfinite().all() for output in outputs[1:])
    assert 1 <= patch.stats().not_finite <= 2
    assert "r" in drawn(patch)


def test_the_other_guidance_branch_goes_its_way() -> None:
    """What one branch measures is nothing to the other."""
    done: list[list[torch.Tensor]] = []
    for spoilt in (None, 6):
        model, inputs, patch = patched("teacache")
        made = []
        for step in range(STEPS):
            for branch in (1.0, -2.0):
                given = inputs(950.0 - 60 * step)
                given["encoder_hidden_states"] = given["encoder_hidden_states"] * branch
                if step == spoilt and branch < 0:
                    given["hidden_states"].flatten()[5] = math.nan
                with torch.no_grad():
                    made.append(model(**given)[0].clone())
        done.append(made[::2])
        assert patch.stats().not_finite == (spoilt is not None)
        assert {step.branch for step in patch.stats().steps if step.not_finite} <= {"1"}
    assert all(map(torch.equal, *done))


def test_decisions_that_are_shared() -> None:
    """The first branch decides for both, and lets both go of what they keep."""
    model, inputs = tiny.build(WAN)
    strategy, options = MEASURING["teacache"]
    patch = autocache.patch(model, strategy, **options, shared_decisions=True)
    for step in range(STEPS):
        for branch in (1.0, -2.0):
            given = inputs(950.0 - 60 * step)
            given["encoder_hidden_states"] = given["encoder_hidden_states"] * branch
            if step == 6 and branch > 0:
                given["hidden_states"].flatten()[5] = math.nan
            with torch.no_grad():
                finite = model(**given)[0].isfinite().all()
            assert finite == (step != 6 or branch < 0)
    acted = {(s.step, s.branch): s.action for s in patch.stats().steps}
    assert {acted[step, branch] for step in (6, 7) for branch in "01"} == {"computed"}
    assert acted[8, "0"] == acted[8, "1"] == acted[5, "0"] == "reused"


class Careless(When):
    """A rule of one's own that skips whatever it measured."""

    def __init__(self, *measured: float) -> None:
        self.measured = measured

    def decide(self, moment: Moment) -> Decision:
        measured = self.measured[moment.step] if moment.step < len(self.measured) else 0.1
        return Decision(compute=False, distance=measured)


def test_a_rule_of_ones_own_cannot_skip_on_it() -> None:
    """Whatever it makes of NaN, the step is computed, and so is the next."""
    model, inputs = tiny.build(WAN)
    when = Careless(0.1, 0.1, 0.1, math.nan, 0.1, 0.1, math.inf, -math.inf)
    with autocache.patched(model, when=when) as patch:
        loop(model, inputs)
        assert drawn(patch) == "CrrCCrCCC" + "r" * 5
        assert patch.stats().not_finite == 3


def test_a_bound_on_other_places_than_the_denoiser() -> None:
    """A guard that finds no outputs of the denoiser to look at computes."""
    model, inputs = tiny.build(WAN)
    with autocache.patched(model, when=Guarded(None, 0.5), where=Blocks(), how=Reuse()) as patch:
        loop(model, inputs)
        assert drawn(patch) == "C" * STEPS


def test_a_polynomial_that_overflows() -> None:
    """What becomes of a finite change counts as well; a relative threshold forgets it too."""
    model, inputs = tiny.build(WAN)
    huge = (1e300,) * 3
    rule = Accumulated(Named("modulated_input"), 0.5, huge, relative=True)
    with autocache.patched(model, when=rule) as patch:
        loop(model, inputs, {4: 1e30})
        assert all(math.isfinite(step.distance or 0.0) for step in patch.stats().steps)
        assert patch.stats().not_finite > 0


@pytest.mark.parametrize("case", ["fbcache", "easycache", "auto", "teacache"])
def test_a_dry_run(case: str) -> None:
    """Errors that are not finite are counted and not passed off as none."""
    model, inputs = tiny.build(WAN)
    strategy, options = MEASURING[case]
    with autocache.patched(model, strategy, dry_run=True, **options) as patch:
        spoilt = loop(model, inputs, {6: math.nan, 7: math.nan})
        stats = patch.stats()
    plain = loop(model, inputs, {6: math.nan, 7: math.nan})
    assert all(torch.equal(a, b) for a, b in zip(spoilt[:6], plain[:6], strict=True))
    assert stats.not_finite > 0
    json.dumps(stats.to_dict(), allow_nan=False)


def test_a_fixed_schedule_says_so_in_a_dry_run() -> None:
    """It measures nothing, but what it would have been off by is not 0 where that is NaN."""
    model, inputs = tiny.build(WAN)
    with autocache.patched(model, "dit_block", step_start=0, dry_run=True) as patch:
        loop(model, inputs, {1: math.nan})
        step = patch.stats().steps[1]
    assert step.action == "reused"
    assert step.not_finite
    assert step.error is None


@pytest.mark.parametrize(("name", "strategy"), SCHEDULED)
def test_what_was_computed_wrong_once_is_not_served_for_ever(name: str, strategy: str) -> None:
    """A NaN that one module makes once, which a fixed schedule cannot see, is gone as soon as three
    steps were computed after it: no strategy looks back further. With the generation it is gone in
    any case."""
    model, inputs = tiny.build(name)
    module = model.get_submodule("conv_out" if name in tiny.UNETS else "blocks.1.ffn")
    with autocache.patched(model, strategy, **SCHEDULES.get(strategy, {})) as patch:
        expected = loop(model, inputs)
        computed = [s.step for s in patch.stats().steps if s.action == "computed"]
        at, *later = computed[1:]
        patch.reset()

        def spoil(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            return output * math.nan if patch.stats().passes == at else output

        handle = module.register_forward_hook(spoil)
        outputs = loop(model, inputs)
        handle.remove()
        assert not outputs[at].isfinite().any()
        assert all(output.isfinite().all() for output in outputs[later[2] + 1 :])
        assert all(map(torch.equal, loop(model, inputs), expected))


@pytest.mark.parametrize("strategy", ["teacache", "fbcache", "easycache", "adastep", "auto"])
def test_a_picture_that_is_lost(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    """A latent that becomes NaN in a pipeline stays so, with or without a cache; nothing of it
    reaches the next picture."""
    pipe = make("flux")
    options = {"auto": {"max_error": 0.5}}.get(strategy, {})
    patch = eager.patch(pipe, strategy, **options)
    expected = run(pipe)

    def spoil(_: Any, step: int, time: Any, given: dict) -> dict:
        if step == 3:
            given["latents"] = given["latents"] * math.nan
        return given

    before = patch.stats().not_finite
    assert run(pipe, callback_on_step_end=spoil).isnan().all()
    assert patch.stats().not_finite > before
    assert patch.stats().bytes_held == 0
    assert len(warned(caplog)) == 1
    assert torch.equal(run(pipe), expected)
