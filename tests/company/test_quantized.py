"""Quantized weights and exchanged layers, in place before the patch and put there under it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import diffusers
import pytest
import torch
from company.adapted import PAIRS, STRATEGIES, Generation, generate, lora, make
from diffusers import PipelineQuantizationConfig, TorchAoConfig
from pipelines.tiny_pipelines import denoisers, run
from torch import nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

import autocache
import tiny
from devices import DEVICE


class Packed(nn.Module):
    """A layer whose weights are no parameters and are unpacked at each call, as GGUF's are."""

    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().amax() / 127
        self.register_buffer("codes", (layer.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias
        # In training mode nothing is certain to stay the same.
        self.eval()

    @property
    def weight(self) -> torch.Tensor:
        return self.codes * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def _eight_bit(layer: nn.Linear) -> nn.Module:
    sizes = layer.in_features, layer.out_features, layer.bias is not None
    return _filled(bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False), layer)


def _four_bit(layer: nn.Linear) -> nn.Module:
    sizes = layer.in_features, layer.out_features, layer.bias is not None
    options: Any = {"quant_type": "nf4", "compute_dtype": torch.float32}
    return _filled(bitsandbytes.nn.Linear4bit(*sizes, **options), layer)


def _filled(quantized: nn.Module, layer: nn.Linear) -> nn.Module:
    quantized.load_state_dict(layer.state_dict())
    return quantized.requires_grad_(False).to(DEVICE)


def _exchanged(made: Callable[[nn.Linear], nn.Module], model: nn.Module) -> None:
    """Another module in the place of each linear layer but those whose dtype the model asks for."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "time" not in name:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made(module))


def _tensors(config: Any, model: nn.Module) -> None:
    quantize_(model, config)


QUANTIZERS: dict[str, Callable[[nn.Module], None]] = {
    "torchao int8 weights": functools.partial(_tensors, Int8WeightOnlyConfig()),
    "torchao int8": functools.partial(_tensors, Int8DynamicActivationInt8WeightConfig()),
    "torchao float8 weights": functools.partial(_tensors, Float8WeightOnlyConfig()),
    "bitsandbytes 8 bit": functools.partial(_exchanged, _eight_bit),
    "bitsandbytes 4 bit": functools.partial(_exchanged, _four_bit),
    "packed": functools.partial(_exchanged, Packed),
}


def _quantize(pipe: Any, quantizer: str) -> None:
    for model in denoisers(pipe):
        QUANTIZERS[quantizer](model)


@functools.cache
def _plain(name: str, quantizer: str | None) -> Generation:
    pipe = make(name)
    if quantizer is not None:
        _quantize(pipe, quantizer)
    return generate(pipe)


EVERY = ("dit_block", "fora", "invariant")
"""Strategies for which every quantizer is tried; with the others, one that exchanges tensors and
one that exchanges modules."""

CASES = [
    (*pair, quantizer)
    for pair in PAIRS
    for quantizer in QUANTIZERS
    if pair[1] in EVERY or quantizer in ("torchao int8", "bitsandbytes 8 bit")
]


@pytest.mark.parametrize(("name", "strategy", "quantizer"), CASES)
def test_before_the_patch_and_after_it(name: str, strategy: str, quantizer: str) -> None:
    """The order makes no difference, to the output nor to what is skipped; with caching off the
    output is that of the quantized model, bit for bit."""
    options = STRATEGIES[name][strategy]
    pipe = make(name)
    _quantize(pipe, quantizer)
    autocache.patch(pipe, strategy, **options)
    expected = generate(pipe)
    plain = _plain(name, quantizer)
    if strategy == "invariant":
        assert torch.equal(expected.output, plain.output)
    else:
        kind = "attention" if strategy in ("attention", "fora") else "block"
        assert expected.total(kind) < plain.total(kind)

    pipe = make(name)
    patch = autocache.patch(pipe, strategy, **options)
    assert not torch.equal(generate(pipe).output, expected.output)
    _quantize(pipe, quantizer)
    assert generate(pipe) == expected
    assert patch.stats().generations == 2
    patch.enabled = False
    assert generate(pipe) == plain
    patch.unpatch()
    modules = [module for model in denoisers(pipe) for module in model.modules()]
    assert not any("_autocache_site" in vars(module) for module in modules)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ["wan", "sd"])
def test_what_is_invariant_notices_other_weights(name: str, quantizer: str) -> None:
    """Quantized in the middle of a generation: what the weights of before made is not reused."""

    def generation(patched: bool) -> Generation:
        pipe = make(name)
        if patched:
            autocache.patch(pipe, "invariant")
        return generate(pipe, lambda step: _quantize(pipe, quantizer) if step == 2 else None)

    plain = generation(False)
    assert not torch.equal(plain.output, _plain(name, None).output)
    assert generation(True) == plain


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_what_is_invariant_is_kept(quantizer: str) -> None:
    """Quantized layers that need not run again do not, whatever their weights are made of."""
    pipe = make("wan")
    patch = autocache.patch(pipe, "invariant")
    run(pipe)
    before = _reused(patch)
    assert before > 0
    _quantize(pipe, quantizer)
    patch.reset()
    run(pipe)
    assert _reused(patch) == before


def _reused(patch: autocache.Patch) -> int:
    return sum(done == "reused" for step in patch.stats().steps for done in step.sites.values())


@pytest.mark.parametrize("quantizer", ["torchao int8 weights", "bitsandbytes 8 bit"])
def test_a_quantized_model_can_be_moved(quantizer: str) -> None:
    """Also in the middle of a generation, when torch allows no weak reference to its weights."""
    model, inputs = tiny.build("WanTransformer3DModel")
    given = inputs(900.0)
    QUANTIZERS[quantizer](model)

    def steps(first: int, last: int) -> list[torch.Tensor]:
        times = [given["timestep"] - 100 * step for step in range(first, last)]
        with torch.no_grad():
            return [model(**given | {"timestep": time})[0] for time in times]

    plain = steps(0, 6)
    patch = autocache.patch(model, "invariant")
    outputs = steps(0, 3)
    model.to("cpu")
    model.to(DEVICE)
    outputs += steps(3, 6)
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))
    assert _reused(patch) >= 4 * 10


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_an_adapter_on_quantized_weights(name: str, strategy: str) -> None:
    """LoRA over int8 weights: loaded and unloaded under a patch."""
    options = STRATEGIES[name][strategy]
    once, anew = make(name), make(name)
    for pipe in (once, anew):
        _quantize(pipe, "torchao int8 weights")
    patch = autocache.patch(once, strategy, **options)
    for change in ("nothing", "load", "unload"):
        for pipe in (once, anew):
            if change == "load":
                pipe.load_lora_weights(lora(name, 1), adapter_name="a")
            elif change == "unload":
                pipe.unload_lora_weights()
        with autocache.patch(anew, strategy, **options):
            expected = generate(anew)
        assert generate(once) == expected
    patch.unpatch()
    assert generate(once) == _plain(name, "torchao int8 weights")


NONE = dict.fromkeys(
    ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "image_encoder"), None
) | {"feature_extractor": None}


@pytest.mark.parametrize("strategy", STRATEGIES["flux"])
def test_quantized_while_it_is_loaded(strategy: str, tmp_path: Path) -> None:
    """diffusers' own way, by the pipeline's `quantization_config`."""
    make("flux").save_pretrained(tmp_path)
    mapping: Any = {"transformer": TorchAoConfig(Int8WeightOnlyConfig())}
    config = PipelineQuantizationConfig(quant_mapping=mapping)
    given: dict[str, Any] = {"quantization_config": config, "torch_dtype": torch.float32, **NONE}
    pipe: Any = diffusers.FluxPipeline.from_pretrained(tmp_path, **given)
    pipe.set_progress_bar_config(disable=True)
    plain = generate(pipe.to(DEVICE))
    by_hand = _plain("flux", "torchao int8 weights")
    torch.testing.assert_close(plain.output, by_hand.output, rtol=0.1, atol=0.05)
    assert not torch.equal(plain.output, _plain("flux", None).output)
    with autocache.patch(pipe, strategy, **STRATEGIES["flux"][strategy]) as patch:
        cached = generate(pipe)
        assert generate(pipe) == cached
        patch.enabled = False
        assert generate(pipe) == plain
    if strategy == "invariant":
        assert cached == plain
    else:
        kind = "attention" if strategy == "fora" else "block"
        assert cached.total(kind) < plain.total(kind)
    assert generate(pipe) == plain
