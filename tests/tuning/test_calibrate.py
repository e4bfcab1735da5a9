"""calibrate makes tables of what the model itself does, and says what they are worth."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.mag_cache import MagCacheConfig
from parity.test_diffusers_magcache import wan as one_expert
from pipelines.tiny_pipelines import _arguments, denoisers, make, run
from torch import nn

import autocache
from autocache.errors import CalibrationError, DoesNotApplyError, ParameterError
from autocache.spec import registry
from autocache.spec.schema import Probe
from autocache.tuning import calibrate_magcache, calibrate_teacache
from autocache.tuning.calibrate import record
from autocache.tuning.calibrate_teacache import Pairs
from autocache.tuning.recording import MOVE, OUTPUT, RATIO, TURN, Recorder, Recording, Series
from autocache.tuning.workload import Workload

STEPS = 6
RESIDUAL = (RATIO, TURN, MOVE)


def given(pipe: Any, count: int = 2, guided: bool = False) -> list[dict[str, Any]]:
    """Inputs for a tiny pipeline that has no text encoder."""
    return [_arguments(pipe, 8, 1, guided, seed) for seed in range(count)]


def workload(pipe: Any, count: int = 2, guided: bool = False) -> Workload:
    return Workload(pipe, given(pipe, count, guided), call={"num_inference_steps": STEPS}, batch=1)


def made_up(x: np.ndarray, y: np.ndarray) -> Pairs:
    return Pairs("probe", tuple(range(len(x))), tuple(x), tuple(y))


def moved(now: torch.Tensor, before: torch.Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def changes(values: Sequence[torch.Tensor]) -> list[float]:
    return [moved(b, a) for a, b in itertools.pairwise(values)]


def series_of(ratios: np.ndarray, turn: float = 0.0) -> list[Series]:
    """One for each row of ratios, which begin with step 1."""
    spec: Any = None
    found = []
    for entry, row in enumerate(ratios):
        told = {RATIO: row, TURN: np.full(len(row), turn), MOVE: np.full(len(row), 0.1)}
        by_step = {name: dict(enumerate(values, 1)) for name, values in told.items()}
        found.append(Series(spec, nn.Identity(), entry, "cond", None, by_step))
    return found


def test_a_known_polynomial_is_recovered():
    """Of any order up to the one fitted, with its range; it explains other inputs in full."""
    random = np.random.default_rng(0)
    x = random.uniform(0.05, 0.6, (6, 20))
    known = (3.0, -2.0, 0.5, 1.25, 0.1)
    fit = calibrate_teacache.fit(made_up(x, np.polyval(known, x)))
    np.testing.assert_allclose(fit.coefficients, known, rtol=1e-4)
    assert fit.r2 == pytest.approx(1)
    assert fit.held_out_r2 == pytest.approx(1)
    assert fit.rank_correlation == pytest.approx(1)
    np.testing.assert_allclose(fit.valid_for, (x.min(), x.max()), rtol=1e-3)
    line = calibrate_teacache.fit(made_up(x, 2 * x + 0.5), order=1)
    np.testing.assert_allclose(line.coefficients, (2, 0.5), rtol=1e-6)


def test_the_thresholds_compute_their_shares():
    """Of equal changes, at a threshold above n of them one step in n is computed."""
    x = np.tile(np.linspace(0.1, 0.1001, 99), (2, 1))
    fit = calibrate_teacache.fit(made_up(x, x), order=1)
    # Every second step is computed from 0.1 on and every third from 0.2 on, with 2 of 100 beside.
    assert fit.thresholds[0] == pytest.approx(0.1, rel=0.05)
    assert fit.thresholds[2] == pytest.approx(0.2, rel=0.05)


def test_noise_explains_nothing_of_other_inputs():
    """However well a polynomial of high order goes through few points."""
    random = np.random.default_rng(1)
    fit = calibrate_teacache.fit(made_up(random.random((4, 5)), random.random((4, 5))), order=8)
    assert fit.r2 > 0.3
    assert fit.held_out_r2 is not None
    assert fit.held_out_r2 < 0
    assert not fit.predicts(0.5, 0.7)


def test_ranks_share_the_place_of_equal_values():
    """Spearman's correlation, as computed by hand."""
    a, b = np.array([1.0, 2.0, 2.0, 9.0]), np.array([0.1, 0.3, 0.2, 0.4])
    assert calibrate_teacache.spearman(a, b) == pytest.approx(0.9486833)
    assert calibrate_teacache.spearman(a, np.ones(4)) == 0


def test_one_input_alone_is_no_test():
    """There is no other to predict, so the fit is refused."""
    fit = calibrate_teacache.fit(made_up(np.linspace(0, 1, 9)[None], np.linspace(0, 2, 9)[None]), 1)
    assert fit.held_out_r2 is None
    assert not fit.predicts(0.5, 0.7)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_pairs_are_those_of_the_plain_model(name, guided):
    """Each probe's and the output's change, as hooks on the model see them, in each branch."""
    pipe = make(name)
    pipe.transformer_2, pipe.boundary_ratio = None, None
    if name == "wan":
        pipe.register_to_config(boundary_ratio=None)
    model, first = (
        pipe.transformer,
        denoisers(pipe)[0].get_submodule("transformer_blocks.0" if name == "flux" else "blocks.0"),
    )
    seen: dict[str, list[torch.Tensor]] = {"modulated_input": [], OUTPUT: []}
    handles = [model.register_forward_hook(lambda *a: seen[OUTPUT].append(a[-1][0].clone()))]
    if name == "flux":
        handles.append(
            first.norm1.register_forward_hook(
                lambda *a: seen["modulated_input"].append(a[-1][0].clone())
            )
        )
    else:
        seen |= {"time_embedding": [], "time_projection": []}
        handles += [
            first.attn1.register_forward_pre_hook(
                lambda m, a, k: seen["modulated_input"].append(a[0].clone()), with_kwargs=True
            ),
            model.condition_embedder.register_forward_hook(
                lambda *a: seen["time_embedding"].append(a[-1][0].clone())
            ),
            first.register_forward_pre_hook(
                lambda m, a: seen["time_projection"].append(a[2].clone())
            ),
        ]
    run(pipe, steps=STEPS, guided=guided)
    for handle in handles:
        handle.remove()
    series = record(workload(pipe, 1, guided), ["teacache", "magcache"])
    assert len(series) == 1 + guided
    for place, one in enumerate(series):
        for key, values in seen.items():
            expected = changes(values[place :: 1 + guided])
            assert list(one.changes[key]) == list(range(1, STEPS))
            np.testing.assert_allclose(list(one.changes[key].values()), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["flux", "wan", "qwen", "hunyuan", "cogvideox", "dit"])
def test_measuring_changes_nothing(name):
    """Same output bit for bit, and every probe that the spec names is measured in every step."""
    plain = run(make(name), steps=STEPS, guided=True)
    pipe, recorder = make(name), Recorder()
    with autocache.patched(pipe, Recording.create(recorder=recorder)):
        watched = run(pipe, steps=STEPS, guided=True)
    assert torch.equal(torch.as_tensor(plain), torch.as_tensor(watched))
    series = recorder.series
    expected = set(series[0].spec.probes) | {OUTPUT, *RESIDUAL}
    assert [set(one.changes) for one in series] == [expected] * len(series)
    steps = sorted(step for one in series for step in one.changes[OUTPUT])
    assert set(steps) | {3} == set(range(1, STEPS))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("build", [lambda: make("flux"), one_expert], ids=["flux", "wan"])
def test_ratios_are_those_that_diffusers_measures(build, guided, capsys):
    """Of the same run, in each guidance branch; the first of diffusers is the first step's 1."""
    pipe = build()
    config = MagCacheConfig(num_inference_steps=STEPS, calibrate=True)
    pipe.transformer.enable_cache(config)
    run(pipe, steps=STEPS, guided=guided)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[1")]
    theirs = [ast.literal_eval(line) for line in printed]
    pipe.transformer.disable_cache()
    made = calibrate_magcache.fit(record(workload(pipe, 1, guided), ["magcache"]))
    assert list(made.ratios) == (["cond", "uncond"] if guided else ["all"])
    for ours, expected in zip(made.ratios.values(), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_two_experts_make_one_table():
    """A ratio for each step of both; the first of the second expert has none before it."""
    pipe = make("wan")
    made = autocache.calibrate(
        pipe, given(pipe), strategy="magcache", call={"num_inference_steps": STEPS}, force=True
    )
    (table,) = made.tables
    assert len(table.ratios["all"]) == STEPS
    assert [step for step, ratio in enumerate(table.ratios["all"]) if ratio == 1] == [0, 3]


@pytest.mark.parametrize(
    ("ratios", "turn", "said"),
    [
        (1 + np.array([[0.2] * 5, [-0.2] * 5]), 0.01, "between inputs"),
        (np.full((2, 5), 0.99), 0.3, "turns"),
    ],
)
def test_ratios_that_mean_nothing_are_told(ratios, turn, said):
    """Inputs that disagree, or a residual that turns."""
    (fault,) = calibrate_magcache.fit(series_of(ratios, turn)).faults()
    assert said in fault


def test_ratios_that_agree_are_taken():
    """Their mean, and the standard deviation between inputs."""
    fit = calibrate_magcache.fit(series_of(np.array([[0.98, 0.96], [1.0, 0.94]])))
    assert fit.ratios == {"all": (1.0, 0.99, 0.95)}
    assert fit.spread == pytest.approx(0.02 / 2**0.5)
    assert fit.faults() == []


def test_inputs_of_different_lengths_have_no_common_ratios():
    """There is no one table for 3 and for 4 steps."""
    both = [*series_of(np.ones((1, 2))), *series_of(np.ones((2, 3)))[1:]]
    with pytest.raises(CalibrationError, match=r"\[3, 4\] steps"):
        calibrate_magcache.fit(both)


class Noise(nn.Module):
    """What it returns has nothing to do with anything."""

    def forward(self) -> torch.Tensor:
        return torch.rand(()) * torch.ones(1, 8)


def test_a_probe_of_noise_is_refused():
    """With the figures and the ways out; force makes the table all the same."""
    pipe = make("flux")
    pipe.transformer.noise = Noise()
    pipe.transformer.register_forward_pre_hook(lambda model, _: [model.noise(), None][1])
    spec = registry.find(pipe.transformer)
    assert spec is not None
    noise = Probe.model_validate({"output_of": {"module": "noise"}})
    spec = spec.model_copy(update={"probes": {"noise": noise}})
    torch.manual_seed(0)
    options: dict[str, Any] = {"strategy": "teacache", "call": {"num_inference_steps": STEPS}}
    with pytest.raises(CalibrationError, match=r"noise: R² -?\d.*auto.*force") as raised:
        autocache.calibrate(pipe, given(pipe, 4), spec=spec, order=1, **options)
    assert "20 pairs, 4 inputs" in str(raised.value)
    made = autocache.calibrate(pipe, given(pipe, 4), spec=spec, order=1, force=True, **options)
    assert made.tables[0].r2 < 0.5


def test_a_model_without_blocks_is_refused():
    """Both strategies skip the stack of blocks, and a UNet has none."""
    pipe = make("sd")
    with pytest.raises(DoesNotApplyError, match="no stack of blocks"):
        autocache.calibrate(pipe, given(pipe), call={"num_inference_steps": STEPS})
    assert not autocache.is_patched(pipe)


def test_one_unfit_probe_does_not_hinder_another():
    """The time embedding is the same for all inputs: 5 changes carry no polynomial of order 4."""
    pipe = make("cogvideox")
    made = autocache.calibrate(
        pipe, given(pipe), strategy="teacache", call={"num_inference_steps": STEPS}, force=True
    )
    assert [table.probe for table in made.tables] == ["modulated_input"]


def test_wrong_arguments_are_named():
    """Strategy and probe with the nearest there is."""
    pipe = make("flux")
    with pytest.raises(ParameterError, match="'teacache'"):
        autocache.calibrate(pipe, given(pipe), strategy="teacach")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'modulated_input'"):
        autocache.calibrate(pipe, given(pipe), probe="modulated_inputs", strategy="teacache")
    assert not autocache.is_patched(pipe)
