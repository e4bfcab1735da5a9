"""Taking a patch off, putting another on, and failing to."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache import errors

TIMES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
STRATEGIES = ("teacache", "dit_block", "attention")


def _loop(model: nn.Module, inputs: Any, times: list[float] = TIMES) -> list[torch.Tensor]:
    scale = 1.0 if type(model).__name__.startswith(("Flux", "Qwen")) else 1000.0
    with torch.no_grad():
        return [model(**inputs(time * scale))[0] for time in times]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _anatomy(model: nn.Module) -> dict[str, Any]:
    """Everything a patch could leave behind."""
    return {
        name: (
            type(module),
            sorted(vars(module)),
            "forward" in vars(module),
            [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks")],
            [len(hooks) for key, hooks in vars(module).items() if "hooks_with_kwargs" in key],
        )
        for name, module in model.named_modules()
    }


def _live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize(("name", "strategy"), tiny.pairs((*STRATEGIES, "deepcache")))
def test_nothing_is_left(name: str, strategy: str) -> None:
    """After unpatch every module has its class, attributes, hooks and outputs of before."""
    model, inputs = tiny.build(name)
    anatomy, keys, plain = _anatomy(model), list(model.state_dict()), _loop(model, inputs)
    patch = autocache.patch(model, tiny.choice(strategy))
    assert type(model) is anatomy[""][0]
    assert _anatomy(model) != anatomy
    assert list(model.state_dict()) == keys
    assert not _same(_loop(model, inputs), plain)
    patch.unpatch()
    assert _anatomy(model) == anatomy
    assert list(model.state_dict()) == keys
    assert _same(_loop(model, inputs), plain)
    patch.unpatch()
    assert _anatomy(model) == anatomy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cached_tensors_are_freed(strategy: str) -> None:
    """Unpatching in mid-generation frees all that was kept, although the Patch lives on."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    _loop(model, inputs, TIMES[:3])
    before = _live_tensors()
    patch = autocache.patch(model, tiny.choice(strategy))
    _loop(model, inputs, TIMES[:3])
    assert patch.stats().bytes_held > 0
    assert _live_tensors() > before
    patch.unpatch()
    assert patch.stats().bytes_held == 0
    assert _live_tensors() == before


def test_bytes_held_are_the_tensors_kept() -> None:
    """dit_block keeps one residual per stream: text and image, of both stacks of Flux together."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    patch = autocache.patch(model, "dit_block", step_start=0, step_interval=2)
    _loop(model, inputs, TIMES[:1])
    assert patch.stats().bytes_held == (16 + 12) * 32 * 4
    patch.reset()
    assert patch.stats().bytes_held == 0


@pytest.mark.usefixtures("nothing_patched")
def test_diffusers_classes_get_their_methods_back() -> None:
    """With the last patch the scheduler's and model's classes are as diffusers made them."""
    euler, flux = diffusers.FlowMatchEulerDiscreteScheduler, diffusers.FluxTransformer2DModel
    mixin = next(c for c in flux.__mro__ if "cache_context" in vars(c))
    before = {cls: dict(vars(cls)) for cls in (euler, flux, mixin)}
    pipes = [make("flux"), make("wan")]
    patches = [autocache.patch(pipe, "dit_block") for pipe in pipes]
    assert vars(euler)["step"] is not before[euler]["step"]
    patches[0].unpatch()
    run(pipes[1])
    assert patches[1].stats().blocks.share < 1
    autocache.unpatch(pipes[1])
    for cls, members in before.items():
        assert sorted(vars(cls)) == sorted(members)
        assert [name for name, member in members.items() if vars(cls)[name] is not member] == []


def test_a_second_patch_replaces_the_first() -> None:
    """Patching twice is patching with the last, and one unpatch takes it all off."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    anatomy = _anatomy(model)
    first = autocache.patch(model, "attention", step_start=0)
    _loop(model, inputs)
    assert first.stats().bytes_held > 0
    second = autocache.patch(model, "dit_block", step_start=0)
    assert first.stats().bytes_held == 0
    replaced = _loop(model, inputs)
    assert (first.stats().passes, second.stats().passes) == (len(TIMES), len(TIMES))
    assert autocache.stats(model).strategy == "dit_block"
    other, inputs = tiny.build("FluxTransformer2DModel")
    autocache.patch(other, "dit_block", step_start=0)
    assert _same(_loop(other, inputs), replaced)
    first.unpatch()
    assert autocache.is_patched(model)
    autocache.unpatch(model)
    assert _anatomy(model) == anatomy


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "range": (errors.ParameterError, "dit_block", {"block_start": 2, "block_end": 99}),
    "stack": (errors.ParameterError, "dit_block", {"blocks": {"blockz": (0, 1)}}),
    "kind": (errors.ParameterError, "attention", {"kinds": ("temporal",)}),
    "table": (errors.ParameterError, "teacache", {"table": "flux9"}),
    "probe": (errors.ParameterError, "teacache", {"probe": "modulated"}),
    "strategy": (errors.UnknownStrategyError, "teacash", {}),
    "memory": (errors.ParameterError, "dit_block", {"memory_limit": "banana"}),
    "spec": (errors.SpecError, "dit_block", {"spec": "/no/such/spec.yaml"}),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_patch_that_fails_changes_nothing(bad: str) -> None:
    """On an error the model is as it was, and a patch that was on it works on."""
    error, strategy, options = BAD[bad]
    model, inputs = tiny.build("FluxTransformer2DModel")
    anatomy, plain = _anatomy(model), _loop(model, inputs)
    with pytest.raises(error):
        autocache.patch(model, tiny.choice(strategy), **options)
    assert _anatomy(model) == anatomy
    assert _same(_loop(model, inputs), plain)
    autocache.patch(model, "dit_block", step_start=0)
    cached = _loop(model, inputs)
    with pytest.raises(error):
        autocache.patch(model, tiny.choice(strategy), **options)
    assert _same(_loop(model, inputs), cached)
    assert autocache.stats(model).strategy == "dit_block"
    autocache.unpatch(model)
    assert _anatomy(model) == anatomy


class Unswappable(FluxSingleTransformerBlock):
    """A class that allows no subclass."""

    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("not to be subclassed")


def test_a_failure_in_the_middle_of_installing_is_undone() -> None:
    """When the last block cannot be intercepted, the earlier patch is back, signals and all."""
    pipe = make("flux")
    pipe.transformer.single_transformer_blocks[2].__class__ = Unswappable
    run(pipe)
    anatomy = _anatomy(pipe.transformer)
    for options in ({}, {"step_interval": 1}):
        with pytest.raises(TypeError):
            autocache.patch(pipe, "dit_block", **options)
        assert _anatomy(pipe.transformer) == anatomy
    patch = autocache.patch(pipe, "dit_block", blocks={"transformer_blocks": (0, 3)})
    cached = run(pipe)
    with pytest.raises(TypeError):
        autocache.patch(pipe, "fbcache")
    assert autocache.stats(pipe).strategy == "dit_block"
    assert torch.equal(run(pipe), cached)
    assert {step.step for step in patch.stats().steps} == set(range(8))
    assert patch.stats().generations == 2
    patch.unpatch()
    assert _anatomy(pipe.transformer) == anatomy


def test_the_context_manager_unpatches_on_an_error_too() -> None:
    """`with patch(...)` and `with patched(...)` both leave the model plain, however they end."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    anatomy, plain = _anatomy(model), _loop(model, inputs)
    with autocache.patch(model, "dit_block"):
        assert not _same(_loop(model, inputs), plain)
        assert autocache.is_patched(model)
    assert _anatomy(model) == anatomy
    seen: list[autocache.Patch] = []

    def stopped() -> None:
        with autocache.patched(model, "attention") as patch:
            seen.append(patch)
            _loop(model, inputs, TIMES[:3])
            assert patch.stats().bytes_held > 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert seen[0].stats().bytes_held == 0
    assert _anatomy(model) == anatomy
    assert _same(_loop(model, inputs), plain)
    assert not autocache.is_patched(model)
    autocache.unpatch(model)


@pytest.mark.usefixtures("nothing_patched")
@pytest.mark.parametrize("look", [getattr, inspect.getattr_static])
@pytest.mark.parametrize("named", [False, True], ids=["plain", "functools.wraps"])
def test_a_method_that_another_library_wrapped_since(
    named: bool, look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What of ours lies beneath its wrapper is inert once unpatched, and a later patch works."""
    pipe = make("flux")
    expected = run(pipe)
    cls = type(pipe)
    # What is there before is put back in the end, not what of ours lies beneath.
    monkeypatch.setattr(cls, "__call__", vars(cls)["__call__"])
    with autocache.patch(pipe, "dit_block"):
        ours = look(cls, "__call__")

        def theirs(self: Any, *args: Any, **given: Any) -> Any:
            return ours.__get__(self, cls)(*args, **given)

        monkeypatch.setattr(cls, "__call__", functools.wraps(ours)(theirs) if named else theirs)
    assert not autocache.is_patched(pipe)
    assert torch.equal(run(pipe), expected)
    with autocache.patch(pipe, "dit_block") as patch:
        run(pipe)
        assert patch.stats().blocks.share < 1
        assert patch.stats().generations == 1
    assert torch.equal(run(pipe), expected)
