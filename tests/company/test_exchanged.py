"""Modules, weights and prompts exchanged under a patch, by whatever code."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from company.adapted import PAIRS, STRATEGIES, generate, make
from pipelines.tiny_pipelines import denoisers
from torch import nn

import autocache
from autocache import errors
from devices import DEVICE

BLOCKS = {"flux": "single_transformer_blocks", "wan": "blocks", "sd": "up_blocks"}


def _last(pipe: Any, name: str) -> nn.ModuleList:
    return denoisers(pipe)[0].get_submodule(BLOCKS[name])  # type: ignore[return-value]


def _other(pipe: Any, name: str) -> nn.Module:
    """A block in place of the last one, with other weights, and the one that was there."""
    blocks = _last(pipe, name)
    before = blocks[-1]
    made = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.3)
    blocks[-1] = made
    return before


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_a_block_is_exchanged(name: str, strategy: str) -> None:
    """The next generation acts on the block that is there now; the one that was there before is a
    plain module again, also when it is put back."""
    options = STRATEGIES[name][strategy]
    pipe, twin = make(name), make(name)
    patch = autocache.patch(pipe, strategy, **options)
    first = generate(pipe)
    taken = _other(pipe, name)
    _other(twin, name)
    with autocache.patch(twin, strategy, **options):
        expected = generate(twin)
    assert generate(pipe) == expected
    assert not torch.equal(first.output, expected.output)
    assert not any("_autocache_site" in vars(module) for module in taken.modules())
    _last(pipe, name)[-1] = taken
    assert generate(pipe) == first
    patch.unpatch()
    assert not any("_autocache_site" in vars(module) for module in denoisers(pipe)[0].modules())


@pytest.mark.parametrize("strategy", ["dit_block", "fora"])
def test_what_no_longer_fits_is_said(strategy: str) -> None:
    """A block that the spec does not know: an error before anything is computed, and the patch goes
    on once it is taken out again."""
    pipe = make("flux")
    patch = autocache.patch(pipe, strategy, **STRATEGIES["flux"][strategy])
    first = generate(pipe)
    blocks = _last(pipe, "flux")
    taken, blocks[-1] = blocks[-1], nn.Identity()
    for _ in range(2):
        with pytest.raises(errors.SpecError, match="single_transformer_blocks"):
            generate(pipe)
    blocks[-1] = taken
    assert generate(pipe) == first
    patch.unpatch()
    assert not any("_autocache_site" in vars(module) for module in pipe.transformer.modules())


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_weights_are_written_between_generations(name: str, strategy: str) -> None:
    """Nothing cached outlives its generation, in whatever way the weights are changed."""
    options = STRATEGIES[name][strategy]
    pipe, twin = make(name), make(name)
    autocache.patch(pipe, strategy, **options)
    first = generate(pipe)
    for model in (*denoisers(pipe), *denoisers(twin)):
        for parameter in model.parameters():
            parameter.data.mul_(1.2)  # which torch does not count as a change
    with autocache.patch(twin, strategy, **options):
        expected = generate(twin)
    assert generate(pipe) == expected
    assert not torch.equal(first.output, expected.output)


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_another_prompt_in_the_same_tensors(name: str, strategy: str) -> None:
    """Prompts that are written into the tensors of the one before are other prompts."""
    options = STRATEGIES[name][strategy]
    shapes = {"flux": (12, 32), "wan": (12, 16), "sd": (6, 8)}
    random = torch.Generator().manual_seed(5)
    prompt = torch.randn(1, *shapes[name], generator=random).to(DEVICE)
    other = torch.randn(1, *shapes[name], generator=random).to(DEVICE)
    pipe, twin = make(name), make(name)
    autocache.patch(pipe, strategy, **options)
    outputs = []
    for _ in range(2):
        outputs.append(_with(pipe, name, prompt))
        with autocache.patch(twin, strategy, **options):
            assert torch.equal(_with(twin, name, prompt), outputs[-1])
        prompt.copy_(other)
    assert not torch.equal(*outputs)


def _with(pipe: Any, name: str, prompt: torch.Tensor) -> torch.Tensor:
    given: dict[str, Any] = {"prompt_embeds": prompt, "height": 64, "width": 64}
    if name == "flux":
        given |= {"pooled_prompt_embeds": torch.ones(1, 32, device=DEVICE), "height": 8, "width": 8}
    elif name == "wan":
        given |= {"num_frames": 5, "guidance_scale": 1.0}
    else:
        given |= {"guidance_scale": 1.0, "height": 8, "width": 8}
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        called: Any = {"num_inference_steps": 6, "output_type": "latent", "return_dict": False}
        return pipe(**given, **called, generator=noise)[0]
