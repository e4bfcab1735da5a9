"""Drafts from little: a name, a pipeline's folder, a class nobody knows."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiTPipeline, DiTTransformer2DModel
from diffusers.models.autoencoders import AutoencoderKL
from diffusers.schedulers import DDIMScheduler
from torch import nn

from autocache.authoring import draft, verify
from autocache.errors import ParameterError, UnknownModelError
from autocache.spec import registry
from autocache.spec.loader import load, loads

UNAIDED = [
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "WanTransformer3DModel",
    "QwenImageTransformer2DModel",
    "PixArtTransformer2DModel",
    "CogVideoXTransformer3DModel",
    "LTXVideoTransformer3DModel",
    "MochiTransformer3DModel",
]
"""Classes for which a tiny config and inputs are found from the class alone."""


@dataclass
class State:
    picture: torch.Tensor
    words: torch.Tensor


class Mixing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(tokens)[:, None].chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]


class Step(nn.Module):
    """A block in nobody's style: both streams in one argument, changed in one result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixing = Mixing(width)
        self.scale = nn.Linear(width, width)

    def forward(self, state: State, level: torch.Tensor) -> State:
        length = state.words.shape[1]
        tokens = torch.cat([state.words, state.picture], 1)
        tokens = tokens + self.mixing(tokens * (1 + self.scale(level)[:, None]))
        return State(tokens[:, length:], tokens[:, :length])


class Odd(nn.Module):
    """Streams of other names in a dataclass, beside a list that is no stack."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.into = nn.Linear(4, width)
        self.time = nn.Linear(1, width)
        self.steps = nn.ModuleList(Step(width) for _ in range(depth))
        self.words = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 4)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        for layer in self.words:
            words = layer(words)
        state = State(self.into(noisy), words)
        for step in self.steps:
            state = step(state, self.time(t[:, None]))
        return self.out(state.picture)


class Unrunnable(nn.Module):
    """Its forward wants what no one can guess."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))

    def forward(self, secret: Any, flow: torch.Tensor) -> torch.Tensor:
        if secret != "open":
            raise ValueError("no")
        for block in self.blocks:
            flow = block(flow)
        return flow


@pytest.fixture
def module() -> Iterator[str]:
    """An importable module with the classes above."""
    name = "odd_models"
    made = types.ModuleType(name)
    for cls in (State, Mixing, Step, Odd, Unrunnable):
        setattr(made, cls.__name__, cls)
    made.__dict__["number"] = 3
    sys.modules[name] = made
    yield name
    del sys.modules[name]


def questions(text: str) -> list[str]:
    return re.findall(r"^ *# QUESTION: .*(?:\n *# (?!QUESTION).*)*", text, re.MULTILINE)


@pytest.mark.parametrize("name", UNAIDED)
def test_a_name_alone_gives_the_same_stacks(name: str) -> None:
    ours = loads(draft(name), f"{name}.yaml")
    theirs = registry.resolve(name, None)
    for one, other in zip(ours.stacks, theirs.stacks, strict=True):
        assert (one.path, one.streams, one.returns, one.each) == (
            other.path,
            other.streams,
            other.returns,
            other.each,
        )
        known = {path.removesuffix("?"): kind for path, kind in other.attention.items()}
        # A checkpoint of default config may lack what others have.
        assert one.attention
        for path, kind in one.attention.items():
            assert kind == known[path.removesuffix("?")]


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "UNet2DConditionModel"])
def test_a_draft_can_be_proven(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.yaml"
    file.write_text(draft(name))
    (report,) = verify(str(file), pipelines=False)
    assert not report.failed, str(report)


def test_a_draft_is_in_the_style_of_the_bundled_specs() -> None:
    text = draft("WanTransformer3DModel")
    assert text.startswith("# yaml-language-server: $schema=spec.schema.json\n")
    assert max(map(len, text.splitlines())) <= 100
    keys = list(yaml.safe_load(text))
    order = list(load(bundled("WanTransformer3DModel")).model_dump(by_alias=True))
    assert keys == sorted(keys, key=order.index)
    assert keys[-1] == "proof"


def bundled(name: str) -> Path:
    file = registry.resolve(name, None).file
    assert file is not None
    return file


def test_the_folder_of_a_pipeline(tmp_path: Path) -> None:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=5,
        sample_size=8,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=8,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    scheduler: Any = DDIMScheduler()
    DiTPipeline(transformer, vae, scheduler).save_pretrained(tmp_path / "pipe")
    spec = loads(draft(tmp_path / "pipe"), "DiTTransformer2DModel.yaml")
    assert [stack.path for stack in spec.stacks] == ["transformer_blocks"]
    assert spec.proof is not None
    assert spec.proof.config["num_embeds_ada_norm"] == 8, "the checkpoint's config is not used"
    # A folder of the denoiser alone is as good, and so is a live model, which is left alone.
    assert draft(tmp_path / "pipe" / "transformer") == draft(tmp_path / "pipe")
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    assert draft(transformer) == draft(tmp_path / "pipe")
    assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())
    assert not any(module._forward_hooks for module in transformer.modules())


def test_a_class_of_another_style(module: str) -> None:
    inputs = {
        "noisy": {"shape": [2, 6, 4]},
        "t": {"shape": [2], "value": 0.5},
        "words": {"shape": [2, 3, 8]},
    }
    text = draft(f"{module}:Odd", config={"width": 8, "depth": 3}, inputs=inputs)
    spec = loads(text, "Odd.yaml")
    (stack,) = spec.stacks
    assert (stack.path, stack.streams, stack.returns) == (
        "steps",
        ["state.picture", "state.words"],
        "state",
    )
    assert stack.attention == {"mixing": "joint"}
    assert spec.timestep == "t"
    assert set(spec.invariant) == {"words.*"}
    assert "No stack: words: its stream (input) does not depend on the latent" in text
    assert any("is noisy the latent?" in question for question in questions(text))


def test_what_cannot_be_run_is_asked_and_not_guessed(module: str) -> None:
    text = draft(f"{module}:Unrunnable")
    spec = loads(text, "Unrunnable.yaml")
    assert not spec.stacks
    assert spec.no_blocks
    assert not spec.probes
    asked = " ".join(" ".join(questions(text)).replace("#", "").split())
    assert "no forward could be run" in asked
    assert "is blocks a stack?" in asked
    assert "which argument of forward holds the timestep?" in asked


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("FluxTransformer2DModle", "did you mean 'FluxTransformer2DModel'"),
        ("nowhere:Class", "cannot import nowhere"),
        ("odd_models:Od", "did you mean 'Odd'"),
        ("odd_models:State", "not a torch.nn.Module class"),
        ("odd_models:number", "an object of class int, not a torch.nn.Module class"),
        ("./no/such/folder", "is no directory"),
        (3, "not int"),
        (dict, "not a torch.nn.Module class"),
    ],
)
def test_a_target_that_is_none(module: str, target: Any, told: str) -> None:
    with pytest.raises(UnknownModelError, match=re.escape(told)):
        draft(target)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "neither model_index.json nor config.json"),
        ({"model_index.json": "{"}, "model_index.json: cannot be read"),
        ({"model_index.json": "[]"}, "expected a mapping, not list"),
        ({"model_index.json": "{}"}, "lists no denoiser"),
        ({"config.json": "{}"}, "has no _class_name"),
        ({"config.json": '{"_class_name": "WanTransformer3D"}'}, "did you mean 'WanTransformer3DM"),
    ],
)
def test_a_broken_folder(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UnknownModelError, match=re.escape(told)):
        draft(tmp_path)


def test_what_is_given_must_build_and_run(module: str) -> None:
    inputs = {"noisy": {"shape": [1, 6, 4]}, "t": {"shape": [1]}, "words": {"shape": [1, 3, 9]}}
    with pytest.raises(ParameterError, match=r"config: cannot build Odd: .*'breadth'"):
        draft(f"{module}:Odd", config={"breadth": 8}, inputs=inputs)
    with pytest.raises(ParameterError, match=r"inputs: forward of the tiny Odd does not run: .*9"):
        draft(f"{module}:Odd", config={"width": 8}, inputs=inputs)
    bad = {**inputs, "words": {"shape": [1], "sahpe": 3}}
    with pytest.raises(ParameterError, match="words: a tensor has no 'sahpe'"):
        draft(f"{module}:Odd", config={"width": 8}, inputs=bad)
