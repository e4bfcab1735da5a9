"""Loops of UNet pipelines: what is skipped is exact there too, and guidance may change midway."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch import nn

import autocache
from autocache.authoring.instance import class_of, model_of, pipeline_of, run_loop
from autocache.runtime.schedulers import scheduler_name
from autocache.spec import registry

ATTENTION, RESNET = "up_blocks.2.attentions.1", "up_blocks.2.resnets.1"
SVD = "StableVideoDiffusionPipeline"
CUTS = {
    ("UNet2DConditionModel", "StableDiffusionPipeline"): ATTENTION,
    ("UNet2DConditionModel", "StableDiffusionImg2ImgPipeline"): ATTENTION,
    ("UNet2DConditionModel", "StableDiffusionControlNetPipeline"): ATTENTION,
    ("UNet2DConditionModel", "StableDiffusionPAGPipeline"): ATTENTION,
    ("UNet2DConditionModel", "LatentConsistencyModelPipeline"): ATTENTION,
    ("UNet2DConditionModel", "StableDiffusionXLPipeline"): RESNET,
    ("UNet2DConditionModel", "StableDiffusionXLControlNetPipeline"): RESNET,
    ("UNet2DConditionModel", "KandinskyV22Pipeline"): "up_blocks.1.resnets.1",
    ("UNet2DConditionModel", "IFPipeline"): "up_blocks.1.resnets.1",
    ("UNet2DModel", "DDPMPipeline"): "up_blocks.1.resnets.1",
    ("UNetMotionModel", "AnimateDiffPipeline"): "up_blocks.1.motion_modules.1",
    ("UNetSpatioTemporalConditionModel", SVD): "up_blocks.1.attentions.1",
    ("Kandinsky3UNet", "Kandinsky3Pipeline"): "up_blocks.1",
    ("StableCascadeUNet", "StableCascadePriorPipeline"): "up_upscalers.1",
    ("StableCascadeUNet", "StableCascadeDecoderPipeline"): "up_upscalers.1",
}
"""Per pipeline, the module whose output the last layer or block of the up path goes on from."""


def denoiser(pipe: Any, cls: type[nn.Module]) -> nn.Module:
    (model,) = (part for part in pipe.components.values() if isinstance(part, cls))
    return model


class Recomposed:
    """A plain denoiser, all of it run, with one feature of every other call that of the last."""

    def __init__(self, model: nn.Module, cut: str) -> None:
        self.calls = -1
        self.feature: Any = None
        model.register_forward_pre_hook(self._begins)
        model.get_submodule(cut).register_forward_hook(self._leaves)

    def _begins(self, *_: Any) -> None:
        self.calls += 1

    def _leaves(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self.calls % 2:
            return copy.deepcopy(self.feature)
        self.feature = copy.deepcopy(output)
        return None


@pytest.mark.parametrize(("name", "label"), CUTS)
def test_deep_features_in_the_loop(name: str, label: str) -> None:
    """Every other step runs the last layer on the old feature, and nothing else is different: with
    the residuals of a ControlNet, perturbed attention, embedded guidance, frames."""
    spec = registry.resolve(name, None)
    plain, patched = pipeline_of(spec, label), pipeline_of(spec, label)
    never = run_loop(spec, label, plain)[0]
    reference = Recomposed(denoiser(plain, class_of(spec)), CUTS[name, label])
    expected = run_loop(spec, label, plain)[0]
    patch = autocache.patch(patched, "deepcache", interval=2)
    found = run_loop(spec, label, patched)[0]
    actions = [step.action for step in patch.stats().steps]
    assert actions == (["computed", "reused"] * len(actions))[: reference.calls + 1]
    assert same(found, expected)
    assert not same(found, never)
    assert same(run_loop(spec, label, patched)[0], found)
    assert patch.stats().generations == 2


def same(one: Any, other: Any) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for part in output:
            yield from tensors(part)


def test_guidance_switched_off_midway() -> None:
    """A callback takes the unconditional half away: its old features do not fit the other half."""
    spec, label = registry.resolve("UNet2DConditionModel", None), "StableDiffusionPipeline"
    pipe = pipeline_of(spec, label)

    def ends(pipe: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step != 2:
            return {}
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": given["prompt_embeds"][-1:]}

    options = {
        "num_inference_steps": 8,
        "callback_on_step_end": ends,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    plain = run_loop(spec, label, pipeline_of(spec, label), **options)[0]
    with autocache.patched(pipe, "deepcache", interval=1):
        assert torch.equal(run_loop(spec, label, pipe, **options)[0], plain)
    patch = autocache.patch(pipe, "deepcache", interval=4)
    first = run_loop(spec, label, pipe, **options)[0]
    # The next one in turn is step 4; step 3 has to be computed for its batch of one.
    actions = [step.action for step in patch.stats().steps]
    assert actions == ["computed", "reused", "reused", "computed", "computed", *["reused"] * 3]
    assert torch.equal(run_loop(spec, label, pipe, **options)[0], first)


def dreamlite(cls: type) -> Any:
    """Without an encoder: what it would say is random, and depends on nothing but how much."""
    parts = {
        "vae": diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        "unet": model_of(registry.resolve("DreamLiteUNetModel", None)),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }
    pipe = cls(text_encoder=None, tokenizer=None, processor=None, **parts)
    pipe.set_progress_bar_config(disable=True)

    def encode(prompts: list[str], **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        size = len(prompts), 5, 10
        noise = torch.Generator().manual_seed(3)
        return torch.randn(size, generator=noise), torch.ones(size[:2], dtype=torch.int64)

    pipe.encode_prompt = encode
    pipe.text_encoder = SimpleNamespace(dtype=torch.float32)
    return pipe


@pytest.mark.parametrize(
    ("cls", "image", "batch"),
    [
        (diffusers.DreamLitePipeline, False, 2),
        (diffusers.DreamLitePipeline, True, 3),
        (diffusers.DreamLiteMobilePipeline, False, 1),
        (diffusers.DreamLiteMobilePipeline, True, 1),
    ],
)
def test_dreamlite(cls: type, image: bool, batch: int) -> None:
    """Drawn with two in a batch, edited with three; distilled for mobiles with one."""
    pipe = dreamlite(cls)
    sizes = []
    pipe.unet.register_forward_pre_hook(
        lambda _module, args, _kwargs: sizes.append(len(args[0])), with_kwargs=True
    )

    def generate() -> torch.Tensor:
        given = {"image": Image.new("RGB", (32, 32), "red")} if image else {}
        noise = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 4, "output_type": "pt", "generator": noise}
        with torch.no_grad():
            return pipe(prompt="x", height=32, width=32, **given, **options).images

    plain = generate()
    assert sizes == [batch] * 4
    with autocache.patched(pipe, "deepcache", interval=1):
        assert torch.equal(generate(), plain)
    patch = autocache.patch(pipe, "deepcache", interval=2)
    first = generate()
    assert [step.action for step in patch.stats().steps] == ["computed", "reused"] * 2
    assert {step.branch for step in patch.stats().steps} == {"0"}
    assert not torch.equal(first, plain)
    assert torch.equal(generate(), first)


def test_each_part_has_its_own_scheduler() -> None:
    """Of a pipeline made of two, by the names of the parts; of any other the only one."""
    spec = registry.resolve("StableCascadeUNet", None)
    pipe = pipeline_of(spec, "StableCascadeCombinedPipeline")
    assert scheduler_name(pipe, pipe.prior_prior) == "prior_scheduler"
    assert scheduler_name(pipe, pipe.decoder) == "scheduler"
    alone = pipeline_of(spec, "StableCascadePriorPipeline")
    assert scheduler_name(alone, alone.prior) == "scheduler"
    assert scheduler_name(object(), alone.prior) == "scheduler"


def test_a_scheduler_for_each_latent() -> None:
    """Backbone and local latents are integrated at the same steps: the first one's will do."""
    spec = registry.resolve("RFD4ProteinaTransformer", None)
    pipe = pipeline_of(spec, "RFD4ProteinaPipeline")
    assert scheduler_name(pipe, pipe.transformer) == "bb_ca_scheduler"
    with autocache.patched(pipe, "dit_block", step_start=0, step_interval=2) as patch:
        run_loop(spec, "RFD4ProteinaPipeline", pipe)
        assert [step.action for step in patch.stats().steps] == ["computed", "reused"] * 3


def test_what_does_not_apply_to_one_part_applies_to_the_other() -> None:
    """Of a prior and a UNet in one pipeline, only the latter has levels."""
    unet = model_of(registry.resolve("UNet2DConditionModel", None))
    prior = model_of(registry.resolve("PriorTransformer", None))
    pipe = type("Combined", (), {"components": {"unet": unet, "prior_prior": prior}})()
    assert autocache.patch(pipe, "deepcache").denoisers == [unet]
