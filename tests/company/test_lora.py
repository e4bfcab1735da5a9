"""LoRA adapters loaded, switched, scaled, fused and unloaded, before a patch and under it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from company.adapted import (
    PAIRS,
    STEPS,
    STRATEGIES,
    Generation,
    Life,
    check_life,
    check_midway,
    generate,
    lora,
    make,
    uncached,
    watched,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pipelines.tiny_pipelines import denoisers, run
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

import autocache
import tiny
from devices import DEVICE

PIPES = tuple(STRATEGIES)


@functools.cache
def _weights(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return lora(name, 1), lora(name, 2)


def _load(pipe: Any, name: str, which: int, adapter: str = "", **options: Any) -> None:
    # Copies: what is loaded becomes the model's own, which a hot swap writes into.
    weights = {key: value.clone() for key, value in _weights(name)[which].items()}
    pipe.load_lora_weights(weights, adapter_name=adapter or "ab"[which], **options)


def _life(name: str) -> Life:
    """One adapter's life."""
    return {
        "nothing": lambda pipe: None,
        "load": lambda pipe: _load(pipe, name, 0),
        "load another": lambda pipe: _load(pipe, name, 1),
        "mix": lambda pipe: pipe.set_adapters(["a", "b"], [0.5, 2.0]),
        "switch": lambda pipe: pipe.set_adapters("b"),
        "fuse": lambda pipe: pipe.fuse_lora(),
        "unfuse": lambda pipe: pipe.unfuse_lora(),
        "disable": lambda pipe: pipe.disable_lora(),
        "enable": lambda pipe: pipe.enable_lora(),
        "delete": lambda pipe: pipe.delete_adapters("a"),
        "unload": lambda pipe: pipe.unload_lora_weights(),
    }


@functools.cache
def _plain(name: str) -> dict[str, Generation]:
    return dict(zip(_life(name), uncached(name, _life(name)), strict=True))


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_changes_between_generations(name: str, strategy: str) -> None:
    """Under one patch each generation is the very one of a patch made after the change, and with
    caching off the one of a pipeline that was never cached."""
    plain = list(_plain(name).values())
    check_life(name, strategy, _life(name), plain, off=("load", "fuse", "unload"))


@pytest.mark.parametrize("name", PIPES)
def test_the_adapters_do_something(name: str) -> None:
    """No two of the states that differ in their adapters give the same output. Unfused weights
    are not the very same: peft adds and takes away."""
    outputs = {label: generation.output for label, generation in _plain(name).items()}
    torch.testing.assert_close(outputs["nothing"], outputs["unload"], rtol=1e-3, atol=1e-4)
    states = ["nothing", "load", "load another", "mix"]
    assert all(not torch.equal(outputs[a], outputs[b]) for a in states for b in states if a < b)


@pytest.mark.parametrize("name", PIPES)
def test_what_is_invariant_is_still_run_once(name: str) -> None:
    """diffusers leaves the layers of an adapter in training mode: what is the same in each step is
    kept all the same, and every adapter is run in the first step of each generation again."""
    pipe = make(name)
    _load(pipe, name, 0)
    patch = autocache.patch(pipe, "invariant")
    once = _reused(patch, pipe)
    assert once > 0
    pipe.set_adapters("a", 0.5)
    assert _reused(patch, pipe) == once
    pipe.unload_lora_weights()
    assert _reused(patch, pipe) == once


def _reused(patch: autocache.Patch, pipe: Any) -> int:
    patch.reset()
    run(pipe, steps=STEPS)
    return sum(done == "reused" for step in patch.stats().steps for done in step.sites.values())


MIDWAY: dict[str, tuple[tuple[str, ...], str]] = {
    "load": (("nothing",), "load"),
    "mix": (("load", "load another"), "mix"),
    "switch": (("load", "load another"), "switch"),
    "fuse": (("load",), "fuse"),
    "unfuse": (("load", "fuse"), "unfuse"),
    "disable": (("load",), "disable"),
    "unload": (("load",), "unload"),
}
"""What happens before the generation, and in the middle of it."""


ALL = ("dit_block", "attention", "auto", "invariant")
"""Strategies for which all of these are tried; with the others, switching."""


@pytest.mark.parametrize(
    ("name", "strategy", "midway"),
    [
        (*pair, midway)
        for pair in PAIRS
        for midway in MIDWAY
        if midway == "switch" or pair[1] in ALL
    ],
)
def test_changes_in_mid_generation(name: str, strategy: str, midway: str) -> None:
    """In a callback: the step after is computed, since nothing that the weights of before made
    stands in for what those of now would, and from there on the strategy goes on."""
    before, change = MIDWAY[midway]
    life = _life(name)

    def prepare(pipe: Any) -> None:
        for label in before:
            life[label](pipe)

    check_midway(name, strategy, life[change], prepare)


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_hot_swapping(name: str, strategy: str, midway: bool) -> None:
    """Other weights in the place of an adapter's, which torch does not count as a change of them,
    between two generations and within one."""
    options = STRATEGIES[name][strategy]

    def generations(patched: bool) -> list[Generation]:
        pipe = make(name)
        _load(pipe, name, 0)
        if patched:
            autocache.patch(pipe, strategy, **options)

        def swap(step: int) -> None:
            if step == 2:
                _load(pipe, name, 1, "a", hotswap=True)

        first = generate(pipe, swap if midway else lambda step: None)
        if not midway:
            swap(2)
        return [first, generate(pipe)]

    plain, cached = generations(False), generations(True)
    assert not torch.equal(plain[0].output, plain[1].output)
    if midway:
        assert cached[0].ran[3] == cached[0].first
    if strategy == "invariant":
        assert cached == plain
        return
    pipe = make(name)
    _load(pipe, name, 1, "a")
    autocache.patch(pipe, strategy, **options)
    assert cached[1] == generate(pipe)


KWARGS = {
    "flux": "joint_attention_kwargs",
    "wan": "attention_kwargs",
    "sd": "cross_attention_kwargs",
}


def _encoder() -> Any:
    sizes: Any = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 8}
    layers: Any = {"num_hidden_layers": 1, "num_attention_heads": 2}
    encoder: Any = CLIPTextModel(CLIPTextConfig(**sizes, **layers))
    return encoder.to(DEVICE)


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_a_scale_for_one_generation(name: str, strategy: str) -> None:
    """The scale that a call passes on holds for that call, skipped steps or not."""
    scales: list[Any] = [{}, *({KWARGS[name]: {"scale": scale}} for scale in (0.5, 2.0)), {}]

    def generations(patches: int) -> list[Generation]:
        pipe = make(name)
        _load(pipe, name, 0)
        if name == "sd":
            # With a scale the pipeline insists on an encoder, though the prompt is encoded already.
            pipe.text_encoder = _encoder()
        made = []
        for nth, scale in enumerate(scales):
            if nth < patches:
                autocache.patch(pipe, strategy, **STRATEGIES[name][strategy])
            made.append(generate(pipe, **scale))
        return made

    plain, cached = generations(0), generations(1)
    assert not torch.equal(plain[0].output, plain[1].output)
    assert not torch.equal(plain[1].output, plain[2].output)
    assert cached == generations(4)
    assert cached[0] == cached[3]
    if strategy == "invariant":
        assert cached == plain


@pytest.mark.parametrize("name", PIPES)
def test_what_is_saved(name: str, tmp_path: Path) -> None:
    """Keys and weights of the model and of the adapter are those of an unpatched pipeline, and what
    is saved loads into one."""
    saved = {}
    for label in ("plain", "patched"):
        pipe = make(name)
        if label == "patched":
            autocache.patch(pipe, [(s, o) for s, o in STRATEGIES[name].items() if s == "invariant"])
        _load(pipe, name, 0)
        run(pipe, steps=2)
        model: Any = denoisers(pipe)[0]
        layers = get_peft_model_state_dict(model, adapter_name="a")
        part = "unet" if hasattr(pipe, "unet") else "transformer"
        pipe.save_lora_weights(tmp_path / label, **{f"{part}_lora_layers": layers})
        saved[label] = load_file(tmp_path / label / "pytorch_lora_weights.safetensors")
        saved[f"{label} model"] = model.state_dict()
    for label in ("", " model"):
        plain, patched = saved[f"plain{label}"], saved[f"patched{label}"]
        assert list(plain) == list(patched)
        assert all(torch.equal(plain[key], patched[key]) for key in plain)
    again = make(name)
    again.load_lora_weights(tmp_path / "patched", adapter_name="a")
    assert torch.equal(run(again, steps=STEPS), _plain(name)["load"].output)


def test_an_adapter_on_a_model_without_its_pipeline() -> None:
    """A model by itself, in a loop of one's own: its own methods are heard too."""
    built, inputs = tiny.build("WanTransformer3DModel")
    model: Any = built
    given = inputs(900.0)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    autocache.patch(model, "attention", step_start=0, step_interval=4)
    ran = []
    with torch.no_grad(), watched(model) as counts:
        for step in range(6):
            if step == 2:
                model.disable_adapters()
            before = counts["attention"]
            model(**given | {"timestep": given["timestep"] - 100 * step})
            ran.append(counts["attention"] - before)
    assert ran == [3, 0, 3, 0, 3, 0]
