"""Loops of text-to-image pipelines: every call replayed, and what a spec cannot describe."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from pipelines import without_encoders
from pipelines.replay import replay, replayed

import autocache
from autocache.authoring.checks.pipelines import pipeline as proves
from autocache.authoring.checks.subject import Subject
from autocache.authoring.instance import loop_of, model_of, pipeline_of, run_loop
from autocache.spec import registry
from autocache.spec.bind import named
from autocache.spec.proof import Loop
from autocache.spec.schema import Spec

CLASSES = (
    "SD3Transformer2DModel",
    "AuraFlowTransformer2DModel",
    "FluxTransformer2DModel",
    "Flux2Transformer2DModel",
    "ChromaTransformer2DModel",
    "BriaTransformer2DModel",
    "BriaFibo2Transformer2DModel",
    "OvisImageTransformer2DModel",
    "Krea2Transformer2DModel",
    "ErnieImageTransformer2DModel",
    "PRXTransformer2DModel",
    "NucleusMoEImageTransformer2DModel",
    "QwenImageTransformer2DModel",
)
SCHEDULER = {"class": "FlowMatchEulerDiscreteScheduler"}
PLAIN = {"transformer": "denoiser", "scheduler": SCHEDULER}
SIZE = {"height": 64, "width": 64}


def _spec(name: str) -> Spec:
    return registry.resolve(name, None)


def _loops() -> Iterator[Any]:
    for name in CLASSES:
        proof = _spec(name).proof
        assert proof is not None
        for label in proof.pipelines:
            yield pytest.param(name, label, id=label.replace(" ", "_"))


def _with(name: str, **described: Any) -> Spec:
    """The spec of a class with one pipeline in its proof, called "loop"."""
    spec = _spec(name)
    loop = Loop.model_validate({"pipeline": f"{without_encoders.__name__}:", **described})
    assert spec.proof is not None
    proof = spec.proof.model_copy(update={"pipelines": {"loop": loop}})
    return spec.model_copy(update={"proof": proof})


@pytest.mark.parametrize(("name", "label"), list(_loops()))
def test_a_skipped_step_is_entry_plus_residual_in_its_own_branch(name: str, label: str) -> None:
    """Under control residuals that change with time, with layers left out, in every branch."""
    records = replay(_spec(name), label)
    for branch in {record.branch for record in records}:
        own = [record for record in records if record.branch == branch]
        assert any(record.blocks_skipped for record in own)
        # A branch that comes in late starts with a computed step; so does one behind a cache.
        assert own[0].blocks_skipped == 0
        expected = [bool(r.step % 2) and r is not own[0] for r in own]
        assert [bool(record.blocks_skipped) for record in own] == expected


@pytest.mark.parametrize(("name", "label"), list(_loops()))
def test_what_does_not_change_runs_once_in_each_branch(name: str, label: str) -> None:
    """Modules that the spec calls invariant, although some are given new slices in every call."""
    spec = _spec(name)
    expected = run_loop(spec, label, pipeline_of(spec, label))[0]
    pipe = pipeline_of(spec, label)
    ran: Counter[str] = Counter()
    found = [pair for pattern in spec.invariant for pair in named(pipe.transformer, pattern)]
    for path, module in found:
        module.register_forward_hook(lambda *_, path=path: ran.update([path]))
    autocache.patch(pipe, "invariant")
    assert torch.equal(run_loop(spec, label, pipe)[0], expected)
    # A call that writes the model's own caches is computed in all of its parts.
    times = len(loop_of(spec, label).branches) + label.endswith("KVPipeline")
    assert ran == {path: times for path, _ in found}


@pytest.mark.parametrize("left_out", [1, 3])
def test_a_range_whose_ends_are_left_out_is_computed(left_out: int) -> None:
    """Skip-layer guidance without the first or the last block of the range: nothing of that branch
    may be skipped, as there is nothing to count from or to, and the other goes on as ever."""
    spec = _spec("SD3Transformer2DModel")
    records = replay(
        spec,
        "StableDiffusion3Pipeline skip layers",
        ranges={"transformer_blocks": (1, 4)},
        skip_guidance_layers=[left_out],
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
    )
    own = [record for record in records if record.branch == "1"]
    assert len(own) >= 5
    assert not any(record.blocks_skipped for record in own)
    main = [record.blocks_skipped for record in records if record.branch == "0"]
    assert main == [0, 3] * 3


def test_control_that_ends_in_mid_run() -> None:
    """What a ControlNet added to the last computed step is in its residual, and only there."""
    spec = _spec("FluxTransformer2DModel")
    ends = {"control_guidance_end": 0.5, "num_inference_steps": 6}
    records = replay(spec, "FluxControlNetPipeline", **ends)
    assert [r.blocks_skipped > 0 for r in records if r.branch == "0"] == [False, True] * 3


@pytest.mark.parametrize("cached", [True, False])
def test_qwen_image_2_1(cached: bool) -> None:
    """The first step of each branch writes the keys and values of the prompt: it is always
    computed, and no step of the schedule."""
    spec = _with(
        "QwenImage21Transformer2DModel",
        pipeline="QwenImage21Pipeline",
        components={
            **PLAIN,
            "processor": {"class": f"{without_encoders.__name__}:Processor"},
        },
        call={
            "prompt_embeds": {"shape": [1, 5, 16]},
            "negative_prompt_embeds": {"shape": [1, 7, 16]},
            "true_cfg_scale": 3.0,
            "num_inference_steps": 5,
            "use_kv_cache": cached,
            **SIZE,
        },
        branches=["cond", "uncond"],
    )
    assert list(proves(Subject(spec), "loop")) == []
    records = replay(spec, "loop")
    steps = [record.step for record in records if record.branch == "uncond"]
    assert steps == [1, 2, 3, 4] if cached else [0, 1, 2, 3, 4]


def test_qwen_image_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of the images to edit follow those of the image, and are modulated as at time 0."""
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
    small = {"base_dim": 4, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    layers = {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False] * 3, "num_res_blocks": 1}
    vae = {"class": "AutoencoderKLQwenImage", "config": small | layers}
    text = {"shape": [1, 6, 16]}
    mask = {"shape": [1, 6], "value": 1, "dtype": "int64"}
    color = {"mode": "RGB", "size": {"tuple": [64, 64]}, "color": "red"}
    spec = _with(
        "QwenImageTransformer2DModel",
        pipeline="QwenImageEditPlusPipeline",
        components={**PLAIN, "vae": vae},
        call={
            "image": {"class": "PIL.Image:new", "config": color},
            "prompt_embeds": text,
            "prompt_embeds_mask": mask,
            "negative_prompt_embeds": text,
            "negative_prompt_embeds_mask": mask,
            "true_cfg_scale": 3.0,
            **SIZE,
        },
        branches=["cond", "uncond"],
    )
    assert list(proves(Subject(spec), "loop")) == []
    replay(spec, "loop")


def test_bria_fibo() -> None:
    """The caller overwrites half of the text before every block."""
    spec = _with(
        "BriaFiboTransformer2DModel",
        pipeline=f"{without_encoders.__name__}:Fibo",
        components=PLAIN,
        call={"prompt": "a circle", "negative_prompt": "none", **SIZE},
    )
    assert list(proves(Subject(spec), "loop")) == []
    replay(spec, "loop")


def test_longcat() -> None:
    """Guidance in two calls, and the latents normalised after."""
    spec = _with(
        "LongCatImageTransformer2DModel",
        pipeline=f"{without_encoders.__name__}:LongCat",
        components={**PLAIN, "transformer": {"class": "denoiser", "config": {"in_channels": 64}}},
        call={"prompt": "a circle", "enable_prompt_rewrite": False, **SIZE},
        branches=["cond", "uncond"],
    )
    assert list(proves(Subject(spec), "loop")) == []
    replay(spec, "loop")


def test_ideogram() -> None:
    """The unconditional branch has a model of its own, with a state of its own on one clock."""
    spec = _with(
        "Ideogram4Transformer2DModel",
        pipeline=f"{without_encoders.__name__}:Ideogram",
        components={**PLAIN, "unconditional_transformer": "denoiser 2"},
        call={
            "prompt": "a circle",
            "guidance_schedule": [3.0] * 4,
            "max_sequence_length": 4,
            **SIZE,
        },
    )
    assert spec.guidance["Ideogram4Pipeline"].style == "separate"
    assert list(proves(Subject(spec), "loop")) == []
    pipe = pipeline_of(spec, "loop")
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=2)
    run_loop(spec, "loop", pipe)
    for model in (pipe.transformer, pipe.unconditional_transformer):
        steps = autocache.stats(model).steps
        assert [record.blocks_skipped > 0 for record in steps] == [False, True] * 2


def test_flux_3() -> None:
    """A modular pipeline, whose guider calls the denoiser once for each branch. Without reference
    images one of the stacks never runs."""
    flux3 = "diffusers.modular_pipelines.flux3.modular_blocks_flux3"
    spec = _spec("Flux3Transformer2DModel")

    def build() -> Any:
        pipe = importlib.import_module(flux3).Flux3CoreDenoiseStep().init_pipeline()
        pipe.update_components(
            transformer=model_of(spec),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            guider=diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        )
        return pipe

    def run(pipe: Any) -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        texts = [torch.randn(1, 6, 24, generator=random) for _ in range(2)]
        given = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1], **SIZE}
        return pipe(**given, num_inference_steps=4, generator=random, output="latents")

    pipe, plain = build(), build()
    expected = run(plain)
    records = replayed(spec, pipe, model_of(spec), lambda: run(pipe))
    assert [(r.step, r.branch) for r in records] == [(n, b) for n in range(4) for b in ("0", "1")]
    assert [r.blocks_skipped for r in records] == [0, 0, 4, 4] * 2
    again = run(pipe)
    assert not torch.equal(again, expected)
    assert torch.equal(again, run(pipe))
    with autocache.patched(plain, "dit_block", step_start=0, step_interval=1):
        assert torch.equal(run(plain), expected)
