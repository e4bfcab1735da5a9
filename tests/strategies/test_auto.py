"""auto in real loops: how much it computes, what it corrects, and that it is never the worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from pipelines.tiny_pipelines import denoisers, make, run
from torch.utils._python_dispatch import TorchDispatchMode

import autocache
from autocache import demo
from autocache.authoring.instance import inputs_of, model_of
from autocache.demo.prompts import held_out
from autocache.how import Forecast
from autocache.spec import registry
from autocache.when import Placed
from autocache.where import Denoiser

PIPELINES = ["flux", "wan", "qwen", "hunyuan", "cogvideox", "dit", "sd", "sdxl"]


@pytest.mark.parametrize("speedup", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_speed_up_is_what_was_asked_for(name: str, speedup: float) -> None:
    """Of the denoiser's calls, which torch's own hooks count; a second run is the same."""
    pipe = make(name)
    plain = run(pipe, steps=12, guided=True)
    calls = [0]
    for model in denoisers(pipe):
        hook = model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    run(pipe, steps=12, guided=True)
    whole, calls[0] = calls[0], 0
    hook.remove()
    with autocache.patched(pipe, "auto", speedup=speedup) as patch:
        first = run(pipe, steps=12, guided=True)
        assert patch.stats().denoiser.total == whole
        wanted = whole * round(12 / speedup) // 12
        # An expert that takes over has nothing to go by: its first step is computed, if it is not
        # among those that are anyway.
        taken_over = 2 * (len(denoisers(pipe)) - 1)
        assert wanted <= patch.stats().denoiser.run <= wanted + taken_over
        assert torch.equal(run(pipe, steps=12, guided=True), first)
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe, steps=12, guided=True), plain)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_speed_up_of_one_is_the_plain_pipeline(name: str) -> None:
    """Bit for bit: nothing is skipped, so there is nothing to correct."""
    pipe = make(name)
    plain = run(pipe, steps=5, guided=True)
    with autocache.patched(pipe, "auto", speedup=1.0):
        assert torch.equal(run(pipe, steps=5, guided=True), plain)


@pytest.mark.parametrize("parameters", [{}, {"speedup": 3.0}, {"max_error": 0.05}], ids=str)
def test_a_scheduler_that_asks_twice_at_a_time(parameters: dict[str, float]) -> None:
    """One of second order: two outputs at one time make no line, and there is no correction."""
    pipe = make("sd")
    pipe.scheduler = diffusers.HeunDiscreteScheduler()
    with autocache.patched(pipe, "auto", **parameters) as patch:
        assert run(pipe, steps=12, guided=True).isfinite().all()
        assert 4 <= patch.stats().denoiser.run < patch.stats().denoiser.total == 23


def test_a_denoiser_that_is_not_told_the_time() -> None:
    """Called by hand, it goes by its steps: computed are the first three and every second then."""
    spec = registry.resolve("UVit2DModel", None)
    model = model_of(spec)
    with autocache.patched(model) as patch, torch.no_grad():
        for step in range(7):
            assert model(**inputs_of(spec, step))[0].isfinite().all()
        actions = [record.action for record in patch.stats().steps]
    assert [action == "computed" for action in actions] == [1, 1, 1, 0, 1, 0, 1]


def test_it_is_what_a_patch_without_a_name_is() -> None:
    """`autocache.patch(pipe)`, and with parameters."""
    pipe = make("flux")
    with autocache.patched(pipe) as patch:
        assert str(patch.strategy) == "auto"
    with autocache.patched(pipe, speedup=3.0) as patch:
        assert str(patch.strategy) == "auto(speedup=3.0)"


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors: on an accelerator each is waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads(pipe: Any, steps: int, begin: int) -> int:
    """Numbers read in a generation after step `begin`; what a scheduler lists is read by then."""
    with Reads() as mode:

        def ended(_pipe: Any, step: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
            if step == begin:
                mode.count = 0
            return kept

        run(pipe, steps=steps, guided=True, callback_on_step_end=ended)
        return mode.count


def test_no_number_is_waited_for() -> None:
    """None of the loop's tensors is read; with a bound on the error one for each computed step."""
    pipe = make("flux")
    plain = reads(pipe, 16, 5)
    with autocache.patched(pipe, "auto"):
        assert reads(pipe, 16, 5) == plain
    with autocache.patched(pipe, "auto", max_error=0.2) as patch:
        more = reads(pipe, 16, 5) - plain
        computed = {record.step for record in patch.stats().steps if record.action == "computed"}
        assert 0 < more <= len(computed)


@pytest.mark.parametrize("name", PIPELINES)
def test_no_error_is_the_plain_pipeline(name: str) -> None:
    """Bit for bit; and less error is never fewer steps, the same in every guidance branch."""
    pipe = make(name)
    plain = run(pipe, steps=10, guided=True)
    counts = []
    for bound in (0.0, 0.02, 0.1, 0.5, 1e9):
        with autocache.patched(pipe, "auto", max_error=bound) as patch:
            drawn = run(pipe, steps=10, guided=True)
            steps = patch.stats().steps
        assert torch.equal(drawn, plain) == all(record.action == "computed" for record in steps)
        done: dict[tuple[str, int], set[str]] = {}
        for record in steps:
            done.setdefault((record.denoiser, record.step), set()).add(record.action)
        assert all(len(actions) == 1 for actions in done.values())
        counts.append(sum(record.action == "computed" for record in steps))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(steps) > counts[-1]


@pytest.fixture(scope="module")
def flux() -> diffusers.FluxPipeline:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path("shapes"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: diffusers.FluxPipeline, steps: int, picked: Sequence[int] = (0, 1)) -> torch.Tensor:
    return pipe(
        prompt=[held_out(2)[seed] for seed in picked],
        num_inference_steps=steps,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=[torch.Generator().manual_seed(seed) for seed in picked],
        output_type="latent",
        return_dict=False,
    )[0]


def test_it_is_nearer_than_fewer_steps_and_the_correction_helps(
    flux: diffusers.FluxPipeline,
) -> None:
    """On the bundled pipeline, at half and a third of the compute."""
    whole = draw(flux, 24)
    for speedup in (2, 3):
        errors = {"fewer": float((draw(flux, 24 // speedup) - whole).square().mean())}
        for correction in (None, 3):
            parts = {"when": Placed(speedup), "where": Denoiser(), "how": Forecast(correction)}
            with autocache.patched(flux, **parts):
                errors[str(correction)] = float((draw(flux, 24) - whole).square().mean())
        with autocache.patched(flux, "auto", speedup=speedup):
            errors["auto"] = float((draw(flux, 24) - whole).square().mean())
        assert errors["auto"] == errors["3"] < errors["None"] < errors["fewer"]


def test_a_lower_bound_on_the_error_is_a_better_picture(flux: diffusers.FluxPipeline) -> None:
    """And one batch of two takes no fewer steps than the harder of them does alone."""
    whole, errors = draw(flux, 24), []
    for bound in (0.02, 0.05, 0.2):
        counts = []
        for picked in ([0], [1], [0, 1]):
            with autocache.patched(flux, "auto", max_error=bound) as patch:
                drawn = draw(flux, 24, picked)
                counts.append(patch.stats().denoiser.run)
        errors.append(float((drawn - whole).square().mean()))
        assert max(counts[:2]) <= counts[2] < 24
    assert errors == sorted(errors)


@pytest.mark.parametrize(("speedup", "least"), [(2.0, 12), (4.0, 6)])
def test_a_schedule_is_kept_to_under_a_bound(
    flux: diffusers.FluxPipeline, speedup: float, least: int
) -> None:
    """Its steps are computed in any case, and others as the bound demands."""
    computed = []
    for bound in (None, 0.05):
        with autocache.patched(flux, "auto", speedup=speedup, max_error=bound) as patch:
            draw(flux, 24)
            steps = {r.step for r in patch.stats().steps if r.action == "computed"}
        computed.append(steps)
    assert len(computed[0]) == least
    assert computed[0] < computed[1]


@pytest.mark.parametrize("guided", [False, True])
def test_memory(guided: bool) -> None:
    """Three outputs for each guidance branch, and nothing when the generation is over."""
    pipe = make("flux")
    sizes: list[int] = []
    hook = pipe.transformer.register_forward_hook(
        lambda _m, _a, output: sizes.append(output[0].nbytes)
    )
    with autocache.patched(pipe, "auto") as patch:
        run(pipe, steps=12, guided=guided)
        stats = patch.stats()
    hook.remove()
    assert stats.bytes_peak == 3 * sizes[0] * (2 if guided else 1)
    assert stats.bytes_held == 0
