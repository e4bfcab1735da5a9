"""Loops of text-to-image pipelines: every call replayed, and what a spec cannot describe."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pipelines import without_encoders
from torch import nn

import autocache
from autocache.authoring.checks.pipelines import pipeline as proves
from autocache.authoring.checks.reference import Recomposed
from autocache.authoring.checks.subject import Subject
from autocache.authoring.instance import pipeline_of, run_loop
from autocache.runtime.record import StepRecord
from autocache.spec import registry
from autocache.spec.proof import Loop
from autocache.spec.schema import Spec, Stack

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
Ranges = dict[str, tuple[int, int]]
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


class Calls:
    """What a denoiser is called with and returns, as torch's own hooks see it."""

    def __init__(self, model: nn.Module) -> None:
        self.given: list[dict[str, Any]] = []
        self.outputs: list[torch.Tensor] = []
        self.processors: dict[str, Any] | None = None
        model.register_forward_pre_hook(self._enters, with_kwargs=True)
        model.register_forward_hook(self._leaves)

    def _enters(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        self.given.append(copy.deepcopy(dict(list(given.items())[1:])))
        # Those of perturbed attention are there only while the pipeline runs.
        self.processors = getattr(module, "attn_processors", None)

    def _leaves(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.outputs.append(output[0].clone())

    def counted(self) -> list[tuple[dict[str, Any], torch.Tensor]]:
        """Those that do not write the model's own caches."""
        pairs = zip(self.given, self.outputs, strict=True)
        return [pair for pair in pairs if pair[0].get("kv_cache_mode") != "extract"]


def _ranges(model: nn.Module, spec: Spec) -> Ranges:
    """Of each stack all but the first block, in the last of several all but the first and last."""
    lengths = {s.path: len(list(model.get_submodule(s.path).children())) for s in spec.stacks}
    ranges = {path: (1, length) for path, length in lengths.items()}
    if len(ranges) > 1:
        last = spec.stacks[-1].path
        ranges[last] = (1, lengths[last] - 1)
    return ranges


def _replay(
    spec: Spec, label: str, ranges: Ranges | None = None, **options: Any
) -> tuple[StepRecord, ...]:
    """Run a pipeline with a range of blocks skipped in every other step, then make each of its
    calls once more on a plain model of its branch, where entry plus residual takes the place of
    what is said to be skipped; they must be equal, bit for bit."""
    pipe, other = pipeline_of(spec, label), pipeline_of(spec, label)
    model, plain = pipe.transformer, other.transformer
    ranges = ranges or _ranges(model, spec)
    own = {"step_start": 0, "step_interval": 2, "blocks": ranges}
    patch = autocache.patch(pipe, "dit_block", **own)
    calls = Calls(model)
    run_loop(spec, label, pipe, **options)
    records = patch.stats().steps
    counted = calls.counted()
    assert len(records) == len(counted)
    for branch in {record.branch for record in records}:
        alone = copy.deepcopy(plain)
        if calls.processors is not None:
            alone.set_attn_processor(dict(calls.processors))
        pairs = zip(records, counted, strict=True)
        own = [(record, *call) for record, call in pairs if record.branch == branch]
        _equal(alone, own, {stack.path: stack for stack in spec.stacks}, ranges)
    return records


def _equal(model: nn.Module, calls: list, stacks: dict[str, Stack], ranges: Ranges) -> None:
    skips = [record.blocks_skipped > 0 for record, _, _ in calls]
    reference = Recomposed(model, stacks, ranges) if any(skips) else None
    for (record, given, output), skip in zip(calls, skips, strict=True):
        if reference is not None:
            reference.skipping = skip
        with torch.no_grad():
            assert torch.equal(model(**given)[0], output), record


@pytest.mark.parametrize(("name", "label"), list(_loops()))
def test_a_skipped_step_is_entry_plus_residual_in_its_own_branch(name: str, label: str) -> None:
    """Under control residuals that change with time, with layers left out, in every branch."""
    records = _replay(_spec(name), label)
    for branch in {record.branch for record in records}:
        own = [record for record in records if record.branch == branch]
        assert any(record.blocks_skipped for record in own)
        # A branch that comes in late starts with a computed step; so does one behind a cache.
        assert own[0].blocks_skipped == 0
        expected = [bool(r.step % 2) and r is not own[0] for r in own]
        assert [bool(record.blocks_skipped) for record in own] == expected


@pytest.mark.parametrize("left_out", [1, 3])
def test_a_range_whose_ends_are_left_out_is_computed(left_out: int) -> None:
    """Skip-layer guidance without the first or the last block of the range: nothing of that branch
    may be skipped, as there is nothing to count from or to, and the other goes on as ever."""
    spec = _spec("SD3Transformer2DModel")
    records = _replay(
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
    records = _replay(spec, "FluxControlNetPipeline", **ends)
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
    records = _replay(spec, "loop")
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
    _replay(spec, "loop")


def test_bria_fibo() -> None:
    """The caller overwrites half of the text before every block."""
    spec = _with(
        "BriaFiboTransformer2DModel",
        pipeline=f"{without_encoders.__name__}:Fibo",
        components=PLAIN,
        call={"prompt": "a circle", "negative_prompt": "none", **SIZE},
    )
    assert list(proves(Subject(spec), "loop")) == []
    _replay(spec, "loop")


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
    _replay(spec, "loop")


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
