"""Drafting every class that has a verified spec, from nothing but its tiny config and inputs."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from autocache.authoring import draft
from autocache.authoring.instance import model_of, proof_of
from autocache.spec.layers import directory, files_in
from autocache.spec.loader import load, loads
from autocache.spec.schema import Levels, Spec, Stack

SPECS = {file.stem: file for file in files_in(directory())}
SHARE = 0.90
"""Of the classes, how many a draft is to get right in every detail that is compared."""

Facts = dict[str, Any]


@functools.cache
def bundled(name: str) -> Spec:
    return load(SPECS[name])


@functools.cache
def drafted(name: str) -> Spec:
    proof = proof_of(bundled(name))
    text = draft(bundled(name).model, config=proof.config, inputs=proof.inputs)
    return loads(text, f"{name}.yaml")


@functools.cache
def differences(name: str) -> tuple[str, ...]:
    model = model_of(bundled(name))
    ours, theirs = facts(drafted(name), model), facts(bundled(name), model)
    return tuple(
        f"{key}: drafted {ours.get(key)}, bundled {theirs.get(key)}"
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key)
    )


def facts(spec: Spec, model: nn.Module) -> Facts:
    """What is compared, of modules that the tiny model has: others no trace can show."""
    found: Facts = {f"stack {stack.path}": stack_facts(stack, model) for stack in spec.stacks}
    if spec.unet is not None:
        found["unet"] = level_facts(spec.unet, model)
        found["attention"] = {
            path: kind
            for pattern, kind in spec.attention.items()
            for path, _ in model.named_modules()
            if fnmatch.fnmatchcase(path, pattern)
        }
    return found


def stack_facts(stack: Stack, model: nn.Module) -> Facts:
    blocks = list(model.get_submodule(stack.path).children())
    classes = {base.__name__ for block in blocks for base in type(block).__mro__}
    names = {path for block in blocks for path, _ in block.named_modules()}
    attention = {name.removesuffix("?"): kind for name, kind in stack.attention.items()}
    return {
        "block": set(stack.block_names) & classes,
        "streams": stack.streams,
        "returns": stack.return_items,
        "bare": isinstance(stack.returns, str),
        "each": stack.each,
        "attention": {name: kind for name, kind in attention.items() if name in names},
    }


def level_facts(levels: Levels, model: nn.Module) -> Facts:
    names = {path.rpartition(".")[2] for path in lists_in(model)}
    listed = {key: as_list(getattr(levels, key)) for key in ("down", "up", "layers")}
    top = dict(model.named_modules())
    return {
        **{key: [name for name in value if name in names] for key, value in listed.items()},
        "middle": levels.middle if levels.middle in top else None,
        "skips": levels.skips,
    }


def lists_in(model: nn.Module) -> Iterator[str]:
    """The lists with something in them, or in their lists."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and any(
            not isinstance(inner, nn.ModuleList) for inner in list(module.modules())[1:]
        ):
            yield path


def as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@pytest.mark.parametrize("name", SPECS)
def test_a_draft_states_nothing_wrong(name: str) -> None:
    ours, theirs = drafted(name), bundled(name)
    assert ours.model == theirs.model
    assert ours.timestep == theirs.timestep
    if ours.timestep_scale != 1:
        assert ours.timestep_scale == theirs.timestep_scale
    if ours.latent_layout is not None and theirs.latent_layout is not None:
        assert ours.latent_layout == theirs.latent_layout
    for pipeline in ours.guidance_styles.keys() & theirs.guidance_styles.keys():
        assert ours.guidance_styles[pipeline] == theirs.guidance_styles[pipeline], pipeline
    for stack in ours.stacks:
        assert stack.path in {other.path for other in theirs.stacks}
    signatures = proof_of(theirs).signatures
    for block, arguments in proof_of(ours).signatures.items():
        assert arguments == signatures.get(block, arguments), block


def test_drafts_equal_the_bundled_specs(record_property: Any) -> None:
    wrong = {name: found for name in SPECS if (found := differences(name))}
    share = 1 - len(wrong) / len(SPECS)
    record_property("share", share)
    told = "\n".join(f"{name}: {text}" for name, found in wrong.items() for text in found)
    print(f"{len(SPECS) - len(wrong)} of {len(SPECS)} drafts ({share:.1%}) equal the specs\n{told}")
    assert share >= SHARE, told
