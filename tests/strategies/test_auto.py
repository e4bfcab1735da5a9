"""auto in real loops: how much it computes, what it corrects, and that it is never the worse."""

from __future__ import annotations

import diffusers
import pytest
import torch
from pipelines.tiny_pipelines import denoisers, make, run

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


def test_no_number_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what the scheduler lists at the beginning, no tensor of the loop is read."""
    pipe = make("flux")
    run(pipe, steps=8)
    waited: list[torch.Size] = []
    item = torch.Tensor.item

    def watched(tensor: torch.Tensor) -> object:
        waited.append(tensor.shape)
        return item(tensor)

    monkeypatch.setattr(torch.Tensor, "item", watched)
    run(pipe, steps=8)
    plain = len(waited)
    with autocache.patched(pipe, "auto"):
        run(pipe, steps=8)
        waited.clear()
        run(pipe, steps=8)
    assert len(waited) == plain


@pytest.fixture(scope="module")
def flux() -> diffusers.FluxPipeline:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path("shapes"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: diffusers.FluxPipeline, steps: int) -> torch.Tensor:
    return pipe(
        prompt=held_out(2),
        num_inference_steps=steps,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
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
