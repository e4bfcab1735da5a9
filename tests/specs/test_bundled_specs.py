"""The bundled specs and the models they describe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autocache.spec import registry
from autocache.spec.bind import BoundStack, bind, signature
from tests.tiny import NAMES, QUALIFIED, STACKED, UNETS, build

BLOCKS = {
    "FluxTransformer2DModel": 6,
    "HunyuanVideoTransformer3DModel": 6,
    **dict.fromkeys(UNETS, 0),
}


def test_every_tiny_model_has_a_bundled_spec() -> None:
    """The bundled specs are exactly those the tiny models can prove."""
    assert {info.model for info in registry.specs()} == {f"{m}:{n}" for n, m in QUALIFIED.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_spec_binds_to_its_model(name: str) -> None:
    """Every fact about paths, classes and argument names holds for the live model."""
    model, _ = build(name)
    bound = bind(registry.resolve(None, model), model)
    assert bound.block_count == BLOCKS.get(name, 3)
    assert [stack.offset for stack in bound.stacks] == list(range(0, bound.block_count, 3))


@pytest.mark.parametrize("name", STACKED)
def test_blocks_return_their_streams_in_the_stated_order(name: str) -> None:
    """What a block returns is what the next block receives under the stated stream names."""
    model, inputs = build(name)
    for stack in bind(registry.resolve(None, model), model).stacks:
        _check_hand_over(stack, model, inputs(0.5 if name[:4] in ("Flux", "Qwen") else 500))


def _check_hand_over(stack: BoundStack, model: nn.Module, inputs: dict[str, Any]) -> None:
    outputs: list[Any] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handles = [
        stack.blocks[0].register_forward_hook(lambda _m, _a, out: outputs.append(out)),
        stack.blocks[1].register_forward_pre_hook(
            lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        ),
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    returned = outputs[0] if isinstance(stack.spec.returns, list) else (outputs[0],)
    assert isinstance(outputs[0], tuple) == isinstance(stack.spec.returns, list)
    assert len(returned) == len(stack.spec.return_order)
    for stream, value in zip(stack.spec.return_order, returned, strict=True):
        assert torch.equal(stack.binder.get(stream, *calls[0]), value)


@pytest.mark.parametrize("name", NAMES)
def test_attention_and_feed_forward_modules_are_called(name: str) -> None:
    """Every attention and feed-forward module named in a spec runs once per denoiser call."""
    model, inputs = build(name)
    ran: list[str] = []
    expected: list[str] = []
    bound = bind(registry.resolve(None, model), model)
    outside = [(path, module) for path, module, _ in bound.attention] + bound.feed_forward
    for label, module in outside:
        expected.append(label)
        module.register_forward_hook(lambda _m, _a, _o, label=label: ran.append(label))
    for stack in bound.stacks:
        for path in (*stack.spec.attention, *stack.spec.feed_forward):
            label = f"{stack.path}.{path}"
            expected.append(label)
            module = stack.blocks[0].get_submodule(path)
            module.register_forward_hook(lambda _m, _a, _o, label=label: ran.append(label))
    model(**inputs(0.5 if name[:4] in ("Flux", "Qwen") else 500))
    assert expected
    assert sorted(ran) == sorted(expected)


@pytest.mark.parametrize("name", NAMES)
def test_probes_see_the_timestep(name: str) -> None:
    """Every probe gives a tensor that differs between two timesteps of one latent."""
    model, inputs = build(name)
    spec = registry.resolve(None, model)
    near, far = (0.9, 0.3) if name[:4] in ("Flux", "Qwen") else (900, 300)
    for probe in spec.probes:
        first, second = (_probe(model, probe, inputs(t)) for t in (near, far))
        assert first.is_floating_point()
        assert first.shape == second.shape
        assert not torch.equal(first, second), probe


def _probe(model: nn.Module, name: str, inputs: dict[str, Any]) -> torch.Tensor:
    bound = bind(registry.resolve(None, model), model)
    probe = bound.spec.probes[name]
    seen: list[Any] = []

    def from_block(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if probe.argument:
            seen.append(stack.binder.get(probe.argument, args, kwargs))
        elif probe.call:
            given = {
                key: stack.binder.get(value, args, kwargs)
                for key, value in probe.call.arguments.items()
            }
            value = first.get_submodule(probe.call.module)(**given)
            seen.append(value if probe.call.output is None else value[probe.call.output])

    def from_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert probe.input_of
        seen.append(signature(type(module)).get(probe.input_of.argument, args, kwargs))

    def from_output(_module: nn.Module, _args: Any, out: Any) -> None:
        assert probe.output_of
        seen.append(out if probe.output_of.output is None else out[probe.output_of.output])

    handles = []
    if bound.stacks:
        stack = bound.stacks[0]
        first = stack.blocks[0]
        handles.append(first.register_forward_pre_hook(from_block, with_kwargs=True))
    if probe.input_of:
        target = first.get_submodule(probe.input_of.module)
        handles.append(target.register_forward_pre_hook(from_input, with_kwargs=True))
    if probe.output_of:
        target = model.get_submodule(probe.output_of.module)
        handles.append(target.register_forward_hook(from_output))
    model(**inputs)
    for handle in handles:
        handle.remove()
    (value,) = seen
    return value


def test_token_replace_blocks_of_hunyuan_video_bind_too() -> None:
    """The image-to-video variant has block classes of its own and the same spec."""
    model, _ = build("HunyuanVideoTransformer3DModel", image_condition_type="token_replace")
    assert bind(registry.resolve(None, model), model).block_count == 6


def test_a_subclass_is_found_through_its_bases() -> None:
    """A patched or derived denoiser keeps the spec of the class it derives from."""
    model, _ = build("DiTTransformer2DModel")
    derived = type("Derived", (type(model),), {})
    found = registry.find(derived)
    assert found is not None
    assert found.name == "DiTTransformer2DModel"
