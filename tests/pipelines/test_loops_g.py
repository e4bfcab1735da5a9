"""Loops of video models beside Wan that a spec's proof cannot describe."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    FramepackSamplingType,
)
from torch import nn

import autocache
from autocache.authoring.instance import inputs_of, model_of, pipeline_of, run_loop
from autocache.spec import registry
from autocache.spec.schema import Spec

EVERY_OTHER: dict[str, Any] = {"step_start": 0, "step_interval": 2}


def spec_of(name: str) -> Spec:
    return registry.resolve(name, None)


@contextlib.contextmanager
def runs(model: nn.Module, **inner: str) -> Iterator[list[int]]:
    """How many blocks each call of a model runs, by a submodule that all blocks of a list run."""
    calls: list[int] = []

    def counts(*_: Any) -> None:
        calls[-1] += 1

    handles = [model.register_forward_pre_hook(lambda *_: calls.append(0))]
    for path, name in inner.items():
        for block in model.get_submodule(path).children():
            handles.append(block.get_submodule(name).register_forward_pre_hook(counts))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class Recomposed:
    """A plain model in which, in every other step, a range of blocks is replaced by what went in
    plus what it last added; for each of so many calls of a step by itself."""

    def __init__(
        self,
        model: nn.Module,
        path: str,
        blocks: tuple[int, int],
        streams: tuple[str, ...],
        calls: int,
    ) -> None:
        self.streams, self.calls = streams, calls
        self.number = -1
        self.entered: list[torch.Tensor] = []
        self.added: dict[int, list[torch.Tensor]] = {}
        model.register_forward_pre_hook(self._begins)
        first, last = (model.get_submodule(f"{path}.{n}") for n in (blocks[0], blocks[1] - 1))
        first.register_forward_pre_hook(self._enters, with_kwargs=True)
        last.register_forward_hook(self._leaves)

    def _begins(self, *_: Any) -> None:
        self.number += 1

    def _enters(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = inspect.signature(block.forward).bind(*args, **kwargs).arguments
        self.entered = [given[name].clone() for name in self.streams]

    def _leaves(self, _block: nn.Module, _args: tuple, output: Any) -> Any:
        step, call = divmod(self.number, self.calls)
        after = output if isinstance(output, tuple) else (output,)
        if step % 2 == 0:
            pairs = zip(after, self.entered, strict=True)
            self.added[call] = [left - entered for left, entered in pairs]
            return None
        filled = [a + b for a, b in zip(self.entered, self.added[call], strict=True)]
        return tuple(filled) if isinstance(output, tuple) else filled[0]


def outputs(model: nn.Module, inputs: Callable[[int], dict[str, Any]]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(**inputs(step))[0] for step in range(4)]


def test_control_residuals_within_the_blocks_of_cosmos_transfer() -> None:
    """What the controlnet says of a skipped step does not matter: the blocks that would add it are
    not run, and what stands in is the exact recomposition."""
    spec = spec_of("CosmosTransformer3DModel")

    def inputs(step: int) -> dict[str, Any]:
        given = inputs_of(spec, step)
        residuals = given["block_controlnet_hidden_states"]
        given["block_controlnet_hidden_states"] = [r * (1 + step) for r in residuals]
        return given

    plain, model = model_of(spec), model_of(spec)
    Recomposed(plain, "transformer_blocks", (1, 3), ("hidden_states",), 1)
    expected = outputs(plain, inputs)
    assert not torch.equal(expected[1], outputs(model_of(spec), inputs)[1])
    autocache.patch(model, "dit_block", **EVERY_OTHER, blocks=(1, 3))
    with runs(model, transformer_blocks="ff") as calls:
        got = outputs(model, inputs)
    assert all(map(torch.equal, got, expected))
    assert calls == [3, 1, 3, 1]


def test_steps_that_cosmos_takes_twice() -> None:
    """For the clean latent, and for the next one: it is one generation of as many steps."""
    spec = spec_of("CosmosTransformer3DModel")
    pipe = pipeline_of(spec, "CosmosTextToWorldPipeline")
    options = {"num_inference_steps": 7}
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER)
    results = []
    for generation in range(2):
        with runs(pipe.transformer, transformer_blocks="ff") as calls:
            results.append(run_loop(spec, "CosmosTextToWorldPipeline", pipe, **options)[0])
        assert calls == [3, 3, 0, 0] * 3 + [3, 3]
        steps = patch.stats().steps[14 * generation :]
        assert [(s.generation, s.step, s.branch) for s in steps] == [
            (generation, step, branch) for step in range(7) for branch in "01"
        ]
    assert torch.equal(*results)


def test_extra_guidance_of_ltx2() -> None:
    """The perturbed and the isolated prediction have caches of their own, of both modalities."""
    spec = spec_of("LTX2VideoTransformer3DModel")
    options = {"num_inference_steps": 6}
    streams = ("hidden_states", "audio_hidden_states")
    plain = pipeline_of(spec, "LTX2Pipeline")
    untouched = run_loop(spec, "LTX2Pipeline", plain, **options)
    Recomposed(plain.transformer, "transformer_blocks", (0, 2), streams, 3)
    expected = run_loop(spec, "LTX2Pipeline", plain, **options)
    assert not any(map(torch.equal, untouched, expected))

    pipe = pipeline_of(spec, "LTX2Pipeline")
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER, blocks=(0, 2))
    for _ in range(2):
        with runs(pipe.transformer, transformer_blocks="ff") as calls:
            got = run_loop(spec, "LTX2Pipeline", pipe, **options)
        assert all(map(torch.equal, got, expected))
        assert calls == ([3] * 3 + [1] * 3) * 3
    branches = [step.branch for step in patch.stats().steps]
    assert branches == ["cond_uncond", "uncond_stg", "uncond_modality"] * 12


def test_a_second_stage_of_ltx2_begins_anew() -> None:
    """The same transformer refines what it made at twice the size: with nothing from before."""
    spec = spec_of("LTX2VideoTransformer3DModel")
    larger = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 1.0}
    larger |= {"stg_scale": 0.0, "modality_scale": 1.0, "audio_guidance_scale": 1.0}
    larger |= {"audio_stg_scale": 0.0, "audio_modality_scale": 1.0}
    alone, both = (pipeline_of(spec, "LTX2Pipeline") for _ in range(2))
    for pipe in (alone, both):
        autocache.patch(pipe, "dit_block", **EVERY_OTHER)
    run_loop(spec, "LTX2Pipeline", both)
    with runs(both.transformer, transformer_blocks="ff") as calls:
        second = run_loop(spec, "LTX2Pipeline", both, **larger)
    assert calls == [3, 0, 3]
    assert all(map(torch.equal, second, run_loop(spec, "LTX2Pipeline", alone, **larger)))


def test_a_guider_that_stops_in_mid_run() -> None:
    """Its other branch ends; the conditional one goes on in its pace, and so the next time."""
    spec = spec_of("HunyuanVideo15Transformer3DModel")
    label = "HunyuanVideo15Pipeline, guided in the first half only"
    pipe = pipeline_of(spec, label)
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER)
    results = []
    for _ in range(2):
        with runs(pipe.transformer, transformer_blocks="ff") as calls:
            results.append(run_loop(spec, label, pipe, num_inference_steps=8)[0])
        assert calls == [3, 3, 0, 0] * 2 + [3, 0] * 2
    assert torch.equal(*results)
    assert {s.branch for s in patch.stats().steps if s.step >= 4} == {"pred_cond"}


@pytest.mark.parametrize("sampling", list(FramepackSamplingType), ids=lambda kind: kind.value)
def test_each_section_of_framepack_is_a_generation(sampling: FramepackSamplingType) -> None:
    """Three steps a section: had the second one gone on counting, it would begin with a skip."""
    spec = spec_of("HunyuanVideoFramepackTransformer3DModel")
    label = "HunyuanVideoFramepackPipeline"
    pipe = pipeline_of(spec, label)
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER)
    options = {"num_inference_steps": 3, "sampling_type": sampling}
    inner = {"transformer_blocks": "ff", "single_transformer_blocks": "proj_mlp"}
    results = []
    for _ in range(2):
        with runs(pipe.transformer, **inner) as calls:
            results.append(run_loop(spec, label, pipe, **options)[0][-1])
        assert calls == [6, 6, 0, 0, 6, 6] * 2
    assert torch.equal(*results)
    assert patch.stats().generations == 4


def test_blocks_that_replace_tokens() -> None:
    """HunyuanVideo's image-to-video checkpoints have blocks of their own in both lists."""
    spec = spec_of("HunyuanVideoTransformer3DModel")
    kind: dict[str, Any] = {"image_condition_type": "token_replace"}
    plain, model = model_of(spec, **kind), model_of(spec, **kind)
    streams = ("hidden_states", "encoder_hidden_states")
    Recomposed(plain, "single_transformer_blocks", (0, 2), streams, 1)
    expected = outputs(plain, lambda step: inputs_of(spec, step))
    autocache.patch(model, "dit_block", **EVERY_OTHER, blocks={"single_transformer_blocks": (0, 2)})
    inner = {"transformer_blocks": "ff", "single_transformer_blocks": "proj_mlp"}
    with runs(model, **inner) as calls:
        got = outputs(model, lambda step: inputs_of(spec, step))
    assert all(map(torch.equal, got, expected))
    assert calls == [6, 4, 6, 4]


class Tokenizer:
    """One token for each word."""

    eos_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1

    def apply_chat_template(self, conversations: list[dict[str, str]], **_: Any) -> Any:
        words = conversations[-1]["content"].split()
        return type("Encoding", (), {"input_ids": [2 + len(word) for word in words]})


def test_packed_sequences_of_cosmos3() -> None:
    """Prompts of different lengths: each guidance branch has text of its own, and its own cache."""
    spec = spec_of("Cosmos3OmniTransformer")
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=2,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0, 0.0],
        latents_std=[1.0, 1.0],
    )

    def built() -> Any:
        scheduler = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        parts: dict[str, Any] = {
            "transformer": model_of(spec),
            "text_tokenizer": Tokenizer(),
            "vae": vae,
            "scheduler": diffusers.UniPCMultistepScheduler(**scheduler),
            "enable_safety_checker": False,
        }
        pipe = diffusers.Cosmos3OmniPipeline(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(pipe: Any) -> torch.Tensor:
        return pipe(
            "a red car by a lake",
            "dull",
            num_frames=5,
            height=32,
            width=32,
            num_inference_steps=5,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )[0]

    plain = run(built())
    pipe = built()
    with autocache.patched(pipe, "dit_block", step_start=0, step_interval=1):
        assert torch.equal(run(pipe), plain)
    patch = autocache.patch(pipe, "dit_block", **EVERY_OTHER)
    results = []
    for _ in range(2):
        with runs(pipe.transformer, layers="mlp") as calls:
            results.append(run(pipe))
        assert calls == [3, 3, 0, 0] * 2 + [3, 3]
    assert torch.equal(*results)
    assert not torch.equal(results[0], plain)
    assert [s.branch for s in patch.stats().steps] == ["cond", "uncond"] * 10
