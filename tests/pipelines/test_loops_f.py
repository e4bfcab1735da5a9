"""Loops of the Wan family and other video models that a spec's proof cannot describe."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner
from torch import nn

import autocache
from autocache.authoring.instance import inputs_of, model_of, pipeline_of, run_loop
from autocache.how import Reuse
from autocache.spec import registry
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Denoiser

Plan = dict[str, tuple[int, int]]


def spec_of(name: str) -> Spec:
    return registry.resolve(f"{name}Transformer3DModel", None)


@contextlib.contextmanager
def runs(model: nn.Module, *paths: str, by: str = "norm3") -> Iterator[list[Counter[str]]]:
    """How many blocks of each list every call of the model runs, by a submodule they all run."""
    calls: list[Counter[str]] = []
    handles = [model.register_forward_pre_hook(lambda *_: calls.append(Counter()))]
    for path in paths:
        for block in model.get_submodule(path).children():
            inner = block.get_submodule(by)
            handles.append(inner.register_forward_pre_hook(lambda *_, p=path: _count(calls, p)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _count(calls: list[Counter[str]], path: str) -> None:
    calls[-1][path] += 1


class Hinted:
    """A plain VACE model in which, in every other step, the blocks of a range are replaced by what
    went in plus what they last added, and hints by the last ones; for each branch by itself."""

    def __init__(self, model: nn.Module, control: tuple[int, int], main: tuple[int, int]) -> None:
        self.call = -1
        self.kept: dict[Any, Any] = {}
        self.entered: dict[str, torch.Tensor] = {}
        model.register_forward_pre_hook(self._begins)
        for nth in range(*control):
            block = model.get_submodule(f"vace_blocks.{nth}")
            self._around(block, block, f"control {nth}", 2)
        first, last = (model.get_submodule(f"blocks.{nth}") for nth in (main[0], main[1] - 1))
        self._around(first, last, "main", 0)

    def _begins(self, *_: Any) -> None:
        self.call += 1

    def _around(self, first: nn.Module, last: nn.Module, name: str, stream: int) -> None:
        def enters(_module: nn.Module, args: tuple) -> None:
            self.entered[name] = args[stream].clone()

        def leaves(_module: nn.Module, _args: tuple, output: Any) -> Any:
            step, branch = divmod(self.call, 2)
            hint, after = output if isinstance(output, tuple) else (None, output)
            if step % 2 == 0:
                self.kept[name, branch] = hint, after - self.entered[name]
                return None
            hint, added = self.kept[name, branch]
            filled = self.entered[name] + added
            return (hint, filled) if isinstance(output, tuple) else filled

        first.register_forward_pre_hook(enters)
        last.register_forward_hook(leaves)


def test_hints_of_vace() -> None:
    """Skipped control blocks hand out their last hints, which are added within skipped ranges and
    behind them; in both guidance branches it is the recomposition by definition."""
    spec = spec_of("WanVACE")
    # Hints are added after the blocks 0, 2 and 4: before the range, in it, and at its very end.
    ranges: Plan = {"vace_blocks": (1, 3), "blocks": (1, 5)}
    options = {"num_inference_steps": 6, "conditioning_scale": [1.0, 0.5, 0.7]}
    plain = pipeline_of(spec, "WanVACEPipeline")
    Hinted(plain.transformer, ranges["vace_blocks"], ranges["blocks"])
    expected = run_loop(spec, "WanVACEPipeline", plain, **options)[0]
    untouched = pipeline_of(spec, "WanVACEPipeline")
    assert not torch.equal(run_loop(spec, "WanVACEPipeline", untouched, **options)[0], expected)

    pipe = pipeline_of(spec, "WanVACEPipeline")
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=ranges)
    for _ in range(2):
        with runs(pipe.transformer, "vace_blocks", "blocks") as calls:
            assert torch.equal(run_loop(spec, "WanVACEPipeline", pipe, **options)[0], expected)
        whole, skipping = {"vace_blocks": 3, "blocks": 5}, {"vace_blocks": 1, "blocks": 1}
        assert calls == [whole, whole, skipping, skipping] * 3


def test_guidance_switched_off_in_mid_run() -> None:
    """The conditional branch goes on as before; the other one is gone, and comes back unspoilt."""
    spec = spec_of("Wan")

    def unguided(pipe: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.0 if step >= 3 else pipe._guidance_scale
        return given

    options = {"num_inference_steps": 8, "callback_on_step_end": unguided}
    plain = run_loop(spec, "WanPipeline", pipeline_of(spec, "WanPipeline"), **options)[0]
    pipe = pipeline_of(spec, "WanPipeline")
    fixed: dict[str, Any] = {"step_start": 0, "block_start": 0, "block_end": 3}
    patch = autocache.patch(pipe, "dit_block", step_interval=1, **fixed)
    assert torch.equal(run_loop(spec, "WanPipeline", pipe, **options)[0], plain)
    autocache.unpatch(pipe)

    patch = autocache.patch(pipe, "dit_block", step_interval=2, **fixed)
    outputs = []
    for generation in (1, 2):
        with runs(pipe.transformer, "blocks") as calls:
            outputs.append(run_loop(spec, "WanPipeline", pipe, **options)[0])
        ran = [call["blocks"] for call in calls]
        assert ran == [3, 3, 0, 0, 3, 3, 0, 0, 3, 0, 3, 0]
        assert patch.stats().generations == generation
    assert torch.equal(*outputs)
    branches = [(record.step, record.branch) for record in patch.stats().steps[-12:]]
    guided = [(step, name) for step in range(4) for name in ("cond", "uncond")]
    assert branches == guided + [(step, "cond") for step in range(4, 8)]


def test_frames_denoised_in_turn() -> None:
    """Diffusion forcing: iterations are steps, whichever of the frames move in them, though only
    copies of the scheduler are stepped; each chunk of a long video begins anew."""
    spec = spec_of("SkyReelsV2")
    for label, iterations, chunks in (("frames in turn", 6, 1), ("chunks", 4, 2)):
        pipe = pipeline_of(spec, label)
        autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=(1, 4))
        outputs = []
        for _ in range(2):
            with runs(pipe.transformer, "blocks") as calls:
                outputs.append(run_loop(spec, label, pipe)[0])
            ran = [call["blocks"] for call in calls]
            assert ran == [4, 4, 1, 1] * (iterations // 2) * chunks, label
        assert torch.equal(*outputs)


def test_calls_that_write_keys_and_values_in_a_loop() -> None:
    """AnyFlow FAR writes them between its chunks: all of that is computed, and counts for no step,
    so the chunks that look back find what was written."""
    spec = spec_of("AnyFlowFAR")
    pipe = pipeline_of(spec, "AnyFlowFARPipeline")
    patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=(0, 3))
    outputs = []
    for _ in range(2):
        with runs(pipe.transformer, "blocks") as calls:
            outputs.append(run_loop(spec, "AnyFlowFARPipeline", pipe)[0])
        chunk = [3, 0, 3, 0]
        assert [call["blocks"] for call in calls] == [*chunk, 3, *chunk, 3, *chunk]
    assert torch.equal(*outputs)
    assert len(patch.stats().steps) == 2 * 3 * 4


def test_keys_and_values_of_the_refiner() -> None:
    """Sana WM's refiner writes them before its blocks of frames and after each: all of that is
    computed, and each block of frames is a generation."""
    spec = spec_of("SanaWMLTX2Refiner")

    def refiner() -> Any:
        parts: dict[str, Any] = dict.fromkeys(("connectors", "tokenizer", "text_encoder"))
        parts |= {"transformer": model_of(spec), "scheduler": FlowMatchEulerDiscreteScheduler()}
        pipe = SanaWMLTX2Refiner(**parts)
        pipe.set_progress_bar_config(disable=True)
        given = inputs_of(spec)
        text = given["encoder_hidden_states"], given["encoder_attention_mask"]
        pipe._encode_prompt = lambda *_, **__: text
        return pipe

    def refined(pipe: Any) -> torch.Tensor:
        frames = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        noise = torch.Generator().manual_seed(1)
        return pipe(frames, "", fps=8.0, block_size=1, generator=noise, output_type="latent")

    pipe = refiner()
    patch = autocache.patch(pipe, "dit_block", step_start=0, step_interval=2, blocks=(0, 4))
    outputs = []
    for _ in range(2):
        with runs(pipe.transformer, "transformer_blocks", by="attn1") as calls:
            outputs.append(refined(pipe))
        frame = [4, 0, 4, 4]
        assert [call["transformer_blocks"] for call in calls] == [4, *frame, *frame]
    assert torch.equal(*outputs)
    assert patch.stats().generations == 4
    plain = refined(refiner())
    assert not torch.equal(plain, outputs[0])
    pipe = refiner()
    autocache.patch(pipe, "dit_block", step_start=0, step_interval=1, blocks=(0, 4))
    assert torch.equal(plain, refined(pipe))


def test_a_block_that_one_branch_leaves_out() -> None:
    """Wan Animate 2 runs no block 9 for the unconditional branch: a range that it is inside of is
    skipped in both, one that it ends is never skipped in that branch."""
    spec = spec_of("WanAnimate2")
    for end, skipping in ((12, [3, 3]), (10, [5, 11])):
        model, plain = model_of(spec, num_layers=12), model_of(spec, num_layers=12)
        autocache.patch(model, "dit_block", step_start=0, step_interval=2, blocks=(3, end))
        cache = _reference_of(spec, model)
        with runs(model, "blocks") as calls, torch.no_grad():
            for step in range(4):
                for unconditional in (False, True):
                    given = {
                        **inputs_of(spec, step),
                        "kv_cache": cache,
                        "is_uncondtion": unconditional,
                    }
                    output = model(**given)[0][0]
                    skipped = step % 2 == 1 and skipping[unconditional] < 11
                    assert torch.equal(output, plain(**given)[0][0]) is not skipped
        assert [call["blocks"] for call in calls] == [12, 11, *skipping] * 2


def test_whole_calls_with_a_list_of_latents() -> None:
    """EasyCache's residual is of each latent in the list."""
    spec = spec_of("WanAnimate2")
    model, plain = model_of(spec), model_of(spec)
    where = Denoiser(residual=True)
    autocache.patch(model, when=Interval(2, start=0), where=where, how=Reuse(), spec=spec)
    first, second = inputs_of(spec, 0), inputs_of(spec, 1)
    latents = [given["hidden_states"][0] for given in (first, second)]
    with torch.no_grad():
        kept = plain(**first)[0][0]
        assert torch.equal(model(**first)[0][0], kept)
        assert torch.equal(model(**second)[0][0], kept - latents[0] + latents[1])


def _reference_of(spec: Spec, model: nn.Module) -> Any:
    """The keys and values of the driving video, written by a call that is all computed."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    cache = WanAnimate2KVCache(12)
    given = inputs_of(spec)
    grid = given["reference_grid_sizes"]
    for name in ("hidden_states", "condition_latents"):
        given[name] = [latent[:, :2] for latent in given[name]]
    written = {"kv_cache": cache, "kv_cache_mode": "extract", "seq_len": 8}
    with runs(model, "blocks") as calls, torch.no_grad():
        model(**{**given, **written, "offset_grid_sizes": grid})
    assert calls == [{"blocks": 12}]
    return cache
