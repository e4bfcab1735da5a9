"""Image pipelines in their own loops: what stands in for blocks, for which guidance branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines.branch_reference import Recomposed, counted_blocks, denoiser_of, plan_of

import autocache
from autocache.authoring.instance import loop_of, model_of, pipeline_of, proof_of, run_loop
from autocache.how import Reuse
from autocache.spec.loader import load
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Guidance

FILES = Path(__file__).parents[2] / "model_specs"
SPECS = {
    name: load(FILES / f"{name}.yaml")
    for name in (
        "CogView3PlusTransformer2DModel",
        "CogView4Transformer2DModel",
        "DiTTransformer2DModel",
        "GlmImageTransformer2DModel",
        "HiDreamImageTransformer2DModel",
        "HunyuanDiT2DModel",
        "HunyuanImageTransformer2DModel",
        "JoyImageEditTransformer3DModel",
        "Lumina2Transformer2DModel",
        "LuminaNextDiT2DModel",
        "OmniGenTransformer2DModel",
        "PixArtTransformer2DModel",
        "PriorTransformer",
        "SanaTransformer2DModel",
        "UVit2DModel",
        "ZImageTransformer2DModel",
    )
}
LOOPS = [(name, label) for name, spec in SPECS.items() for label in proof_of(spec).pipelines]


def _pair(name: str, label: str) -> tuple[Spec, Any, Any]:
    spec = SPECS[name]
    pipe = pipeline_of(spec, label)
    return spec, pipe, denoiser_of(pipe, spec)


def _expected(name: str, label: str) -> tuple[Any, Recomposed]:
    spec, pipe, model = _pair(name, label)
    reference = Recomposed(model, spec, plan_of(model, spec))
    return run_loop(spec, label, pipe)[0], reference


@pytest.mark.parametrize(("name", "label"), LOOPS)
def test_skipped_steps_are_recomposed_in_their_branch(name: str, label: str) -> None:
    """Every other step is the plain loop with the ranges of each branch recomposed."""
    expected, reference = _expected(name, label)
    spec, pipe, model = _pair(name, label)
    plan = plan_of(model, spec)
    ran = counted_blocks(model, spec)
    patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=plan)
    first = run_loop(spec, label, pipe)[0]
    assert torch.equal(first, expected)
    branches = loop_of(spec, label).branches
    steps = autocache.stats(model).steps
    told = [(record.step, record.branch) for record in steps]
    assert told == [(step, branches[nth]) for step, nth in reference.calls]
    length = sum(end - start for start, end in plan.values())
    skipped = [length * (call in reference.skipped) for call in reference.calls]
    assert [record.blocks_skipped for record in steps] == skipped
    # One reference image is one more call, before the first step and computed.
    computed = sum(r.blocks_total - r.blocks_skipped for r in steps)
    assert sum(ran.values()) == computed + len(ran) * (label == "reference image")
    assert torch.equal(run_loop(spec, label, pipe)[0], first)
    assert patch.stats().generations == 2


@pytest.mark.parametrize(("name", "label"), LOOPS)
def test_never_skipping_changes_nothing(name: str, label: str) -> None:
    """Computing every step, over two generations, equals the unpatched loop."""
    spec, plain, _ = _pair(name, label)
    _, pipe, _ = _pair(name, label)
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=1)
    for seed in (0, 1):
        expected = run_loop(spec, label, plain, seed=seed)[0]
        assert torch.equal(run_loop(spec, label, pipe, seed=seed)[0], expected)


TRUNCATED = {
    "Lumina2Transformer2DModel": ("cfg_trunc_ratio", [2, 2, 2, 1, 1, 1], [0, 2, 0, 1, 0, 1]),
    # The batch becomes smaller in step 3, which nothing that is kept fits.
    "ZImageTransformer2DModel": ("cfg_truncation", [1] * 6, [0, 1, 0, 0, 0, 1]),
}
"""Per model, the argument, and by step the calls and those of them that skip."""


@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("name", TRUNCATED)
def test_guidance_that_stops_in_mid_run(name: str, truncated: bool) -> None:
    """Each branch goes on with its own residuals, and the next generation has both again."""
    argument, calls, skips = TRUNCATED[name]
    if not truncated:
        calls = [calls[0]] * 6
        skips = [0, calls[0]] * 3
    spec, pipe, model = _pair(name, "truncated guidance")
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=2)
    options: dict[str, Any] = {} if truncated else {argument: 1.0}
    outputs = [run_loop(spec, "truncated guidance", pipe, **options)[0] for _ in range(2)]
    assert torch.equal(*outputs)
    for generation in (0, 1):
        records = [r for r in autocache.stats(model).steps if r.generation == generation]
        by_step = [[r for r in records if r.step == step] for step in range(6)]
        assert [len(own) for own in by_step] == calls
        assert [sum(r.blocks_skipped > 0 for r in own) for own in by_step] == skips


@pytest.mark.parametrize("strategy", ["fbcache", "easycache", "taylorseer", "fastercache"])
@pytest.mark.parametrize("name", TRUNCATED)
def test_other_strategies_when_guidance_stops(name: str, strategy: str) -> None:
    """What one branch leaves behind does not reach the next generation."""
    spec, pipe, _ = _pair(name, "truncated guidance")
    options = {"easycache": {"threshold": 1e9, "warmup_steps": 2}, "fbcache": {"threshold": 1e9}}
    patch = autocache.patch(pipe, strategy, **options.get(strategy, {}))
    first, second = (run_loop(spec, "truncated guidance", pipe)[0] for _ in range(2))
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert patch.stats().generations == 2


GUIDED = [
    (name, label)
    for name, label in LOOPS
    if SPECS[name].guidance[loop_of(SPECS[name], label).pipeline or label].style
    in ("batched", "batched_conditional_first")
    and SPECS[name].latent_layout
]


@pytest.mark.parametrize(("name", "label"), GUIDED)
def test_the_unconditional_half_alone_is_left_out(name: str, label: str) -> None:
    """Every argument is cut to the conditional half, and what comes of it is what its half of the
    whole batch gives."""
    spec, pipe, model = _pair(name, label)
    whole: list[torch.Tensor] = []
    with autocache.patched(pipe, when=Interval(2, start=0), where=Guidance(), how=Reuse()):
        model.register_forward_hook(lambda _m, _a, output: whole.append(output[0]))
        run_loop(spec, label, pipe, num_inference_steps=2)
    _, pipe, model = _pair(name, label)
    half: list[torch.Tensor] = []
    model.register_forward_hook(lambda _m, _a, output: half.append(output[0]))
    run_loop(spec, label, pipe, num_inference_steps=2)
    style = spec.guidance[loop_of(spec, label).pipeline or label].style
    conditional = 0 if style == "batched_conditional_first" else 1
    assert [len(output) for output in whole] == [2, 1]
    assert [len(output) for output in half] == [2, 2]
    torch.testing.assert_close(whole[1], half[1].chunk(2)[conditional])


def test_reference_images_are_read_once() -> None:
    """The call that leaves a reference's keys and values is computed, and is no step."""
    spec, pipe, model = _pair("GlmImageTransformer2DModel", "reference image")
    attended: list[int] = []
    keys = model.transformer_blocks[0].attn1.to_k
    keys.register_forward_hook(lambda _m, _a, output: attended.append(output.shape[1]))
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=2)
    run_loop(spec, "reference image", pipe)
    # A reference's tokens come without text; then come two computed steps of two branches.
    assert attended == [16, *[16 + 5] * 4]
    assert [r.step for r in autocache.stats(model).steps] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_tokens_of_a_vocabulary_as_latent() -> None:
    """EasyCache measures the share of tokens that changed, and hands the last output out."""
    spec, pipe, model = _pair("UVit2DModel", "AmusedPipeline")
    plain, outputs = [], []
    model.register_forward_hook(lambda _m, _a, output: outputs.append(output))
    autocache.patch(pipe, "easycache", threshold=1e9, warmup_steps=2)
    for _ in range(2):
        plain.append(run_loop(spec, "AmusedPipeline", pipe, num_inference_steps=6)[0])
    assert torch.equal(*plain)
    whole = [record.whole for record in autocache.stats(model).steps]
    assert whole == [False, False, True, True, True, False] * 2
    assert len(outputs) == 6


class _Prompt:
    """In place of OmniGen's processor, which needs torchvision."""

    max_image_size = 1024

    def __init__(self, tokenizer: Any, max_image_size: int) -> None:
        pass

    def __call__(self, prompt: Any, images: Any, use_img_cfg: bool, **_: Any) -> dict[str, Any]:
        branches = 3 if images else 2
        length = 20 + 1 + 16
        return {
            "input_ids": torch.arange(branches * 20).reshape(branches, 20) % 16,
            "attention_mask": torch.ones(branches, length, length),
            "position_ids": torch.arange(length).expand(branches, -1),
            "input_pixel_values": [torch.zeros(1, 3, 8, 8) for _ in images or ()],
            "input_image_sizes": {0: [[2, 18]]} if images else {},
        }


def _omnigen(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A pipeline without a tokenizer and an autoencoder, and its denoiser."""
    import diffusers
    from diffusers.pipelines.omnigen import pipeline_omnigen

    monkeypatch.setattr(pipeline_omnigen, "OmniGenMultiModalProcessor", _Prompt, raising=False)
    model: Any = model_of(SPECS["OmniGenTransformer2DModel"])
    nothing: Any = None
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1)
    pipe: Any = diffusers.OmniGenPipeline(model, scheduler, nothing, nothing)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        pipe, "encode_input_images", lambda values, device: [torch.ones(1, 4, 8, 8) for _ in values]
    )
    return pipe, model


def _drawn(pipe: Any, images: bool) -> torch.Tensor:
    given = {"prompt": ["<img><|image_1|></img>"], "input_images": [["one"]]}
    size = {"height": 64, "width": 64, "output_type": "latent", "return_dict": False}
    noise = torch.Generator().manual_seed(0)
    return pipe(
        **(given if images else {"prompt": ["a"]}), **size, num_inference_steps=4, generator=noise
    )[0]


@pytest.mark.parametrize("images", [False, True])
def test_two_and_three_guidance_branches_in_one_batch(
    images: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OmniGen runs its branches in one batch: three of them with an image in the prompt."""
    spec = SPECS["OmniGenTransformer2DModel"]
    pipe, model = _omnigen(monkeypatch)
    plain = _drawn(pipe, images)
    with autocache.patched(pipe, "dit_block", step_start=0, step_interval=1):
        assert torch.equal(_drawn(pipe, images), plain)
    plan = plan_of(model, spec)
    Recomposed(model, spec, plan)
    expected = _drawn(pipe, images)
    assert not torch.equal(expected, plain)

    pipe, model = _omnigen(monkeypatch)
    sizes: list[int] = []
    model.register_forward_hook(lambda _m, _a, output: sizes.append(len(output[0])))
    patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=plan)
    for _ in range(2):
        assert torch.equal(_drawn(pipe, images), expected)
    assert set(sizes) == {3 if images else 2}
    assert patch.stats().generations == 2
    assert [record.blocks_skipped for record in patch.stats().steps] == [0, 2, 0, 2] * 2


def _draw_patches(pipe: Any) -> torch.Tensor:
    size = {"height": 64, "width": 64, "output_type": "latent", "return_dict": False}
    noise = torch.Generator().manual_seed(0)
    return pipe(prompt="a", num_inference_steps=4, generator=noise, **size)[0]


def test_a_list_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """JoyImage-Edit-Plus runs both branches in one batch, patches that it later writes to."""
    import diffusers

    def encoded(_: Any, prompt: list[str], **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        text = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(len(prompt[0])))
        return text, torch.ones(1, 5)

    spec = load(FILES / "JoyImageEditPlusTransformer3DModel.yaml")
    # It encodes prompts also where it is given embeddings.
    cls = diffusers.JoyImageEditPlusPipeline
    monkeypatch.setattr(cls, "encode_prompt_multiple_images", encoded)

    def build() -> tuple[Any, Any]:
        parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "processor"))
        model: Any = model_of(spec)
        pipe = cls(diffusers.FlowMatchEulerDiscreteScheduler(), transformer=model, **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe, model

    pipe, model = build()
    plan = plan_of(model, spec)
    reference = Recomposed(model, spec, plan)
    expected = _draw_patches(pipe)
    pipe, _ = build()
    patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=plan)
    for _ in range(2):
        assert torch.equal(_draw_patches(pipe), expected)
    assert reference.calls == [(step, 0) for step in range(4)]
    assert [record.blocks_skipped for record in patch.stats().steps] == [0, 2, 0, 2] * 2
