"""What the pipeline's other components take: told by name, and nothing stays on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
from autocache import demo, metrics

SMALL = {"height": 32, "width": 32, "max_sequence_length": 24, "output_type": "np"}
STEPS = 6


@pytest.fixture(scope="module")
def shapes() -> Any:
    pipe = DiffusionPipeline.from_pretrained(demo.path("shapes"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(autouse=True)
def _unpatched(shapes: Any) -> Iterator[None]:
    yield
    autocache.unpatch(shapes)


def draw(pipe: Any, **given: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    asked = {"num_inference_steps": STEPS, **SMALL, **given}
    return pipe("a red circle", generator=generator, **asked).images


def traces(pipe: Any) -> dict[str, tuple]:
    """What is on each component that may be put there by others."""
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
    return {
        name: (
            type(module),
            tuple(vars(module)),
            tuple(module._forward_hooks.values()),
            tuple(module._forward_pre_hooks.values()),
            tuple(module._forward_hooks_always_called),
        )
        for name, module in modules.items()
    }


def timing(owner: Any, name: str, took: list[float]) -> Callable[[], None]:
    """Time a method from inside, whatever is around it; returns how to take that off again."""
    cls, method = type(owner), getattr(type(owner), name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            took.append(time.perf_counter() - began)

    setattr(cls, name, timed)
    return lambda: setattr(cls, name, method)


def named(stats: Any) -> dict[str, float]:
    return {part.name: part.seconds for part in stats.times.components}


def test_components_are_told_by_name_and_phase(shapes):
    """As long as a clock inside of them says, within their phase, and in the table and JSON."""
    decode: list[float] = []
    encode: list[float] = []
    undo = [timing(shapes.vae, "decode", decode), timing(shapes.text_encoder, "forward", encode)]
    try:
        with autocache.patched(shapes, "fora", interval=2) as patch:
            draw(shapes)
            draw(shapes)
            stats = patch.stats()
    finally:
        for each in undo:
            each()
    found = {(part.phase, part.name): part.seconds for part in stats.times.components}
    assert set(found) == {
        ("before", "text_encoder"),
        ("before", "text_encoder_2"),
        ("after", "vae.decode"),
    }
    assert len(decode) == 2
    assert sum(decode) <= found["after", "vae.decode"] <= (stats.times.after or 0)
    assert sum(encode) <= found["before", "text_encoder"]
    assert sum(s for (p, _), s in found.items() if p == "before") <= (stats.times.before or 0)
    assert "(vae.decode " in str(stats)
    told = stats.to_dict()["seconds"]["pipeline"]["components"]
    assert [(part["phase"], part["name"]) for part in told] == list(found)


def test_what_is_called_between_the_steps_is_told(shapes):
    """A callback that decodes every latent: that time is between, the last one's after."""

    def look(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe.vae.decode(torch.zeros(1, pipe.vae.config.latent_channels, 4, 4))
        return given

    with autocache.patched(shapes, "fora") as patch:
        draw(shapes, callback_on_step_end=look)
        phases = [p.phase for p in patch.stats().times.components if p.name == "vae.decode"]
        patch.reset()
        assert patch.stats().times.components == ()
    assert phases == ["between", "after"]


def test_nothing_is_left_on_them_and_nothing_is_changed(shapes):
    """After a call, after one that fails, beside hooks of others; pixels as without any patch."""
    seen: list[int] = []
    handle = shapes.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    before, plain = traces(shapes), draw(shapes)
    with autocache.patched(shapes, "fora", dry_run=True):
        patched = traces(shapes)
        assert metrics.psnr(plain, draw(shapes)) == [float("inf")]
        assert traces(shapes) == patched

        def fail(*_: Any) -> dict[str, Any]:
            assert traces(shapes) != patched
            raise RuntimeError("stopped by the callback")

        with pytest.raises(RuntimeError, match="stopped by the callback"):
            draw(shapes, callback_on_step_end=fail)
        assert traces(shapes) == patched
        others = [name for name in before if name != "transformer"]
        assert {n: patched[n] for n in others} == {n: before[n] for n in others}
    assert traces(shapes) == before
    assert len(seen) == 3
    handle.remove()


def test_a_decode_of_ones_own_is_run_and_put_back(shapes):
    """On the instance already, or put there during the call."""
    own: Any = shapes.vae.decode
    calls: list[str] = []

    def mine(*args: Any, **kwargs: Any) -> Any:
        calls.append("mine")
        return own(*args, **kwargs)

    def later(pipe: Any, *_: Any) -> dict[str, Any]:
        inner = pipe.vae.decode
        pipe.vae.decode = lambda *a, **k: (calls.append("later"), inner(*a, **k))[1]
        return {}

    try:
        shapes.vae.decode = mine
        with autocache.patched(shapes, "fora") as patch:
            draw(shapes)
            assert named(patch.stats())["vae.decode"] > 0
            assert vars(shapes.vae)["decode"] is mine
            draw(shapes, num_inference_steps=1, callback_on_step_end=later)
            assert vars(shapes.vae)["decode"] is not mine
        draw(shapes)
    finally:
        del shapes.vae.decode
    assert calls == ["mine", "later", "mine", "later", "mine"]


def test_requests_at_once_share_their_components(shapes):
    """Whichever ends first leaves the other's measured, and the last one takes all off."""
    before = traces(shapes)
    with autocache.patched(shapes, "fora", interval=2) as patch:
        patched = traces(shapes)

        def serve() -> None:
            with autocache.request(shapes) as own:
                for _ in range(3):
                    draw(own)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = patch.stats()
        assert stats.generations == 9
        assert set(named(stats)) == {"text_encoder", "text_encoder_2", "vae.decode"}
        assert traces(shapes) == patched
    assert traces(shapes) == before


@pytest.mark.parametrize("whole", [True, False], ids=["torch.compile", "Module.compile"])
def test_compiled_components_stay_one_graph(shapes, whole):
    """Compiled without graph breaks and never again; its time is told where it can be seen."""
    pipe = type(shapes)(**shapes.components)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    vae = pipe.vae
    try:
        vae.decode = torch.compile(vae.decode, backend=backend, fullgraph=True)
        if whole:
            pipe.text_encoder = torch.compile(pipe.text_encoder, backend=backend)
        else:
            pipe.text_encoder.compile(backend=backend)
        with torch.no_grad(), autocache.patched(pipe, "fora") as patch:
            draw(pipe)
            first = len(graphs)
            draw(pipe)
            stats = patch.stats()
        draw(pipe)
    finally:
        del vae.decode
        shapes.text_encoder._compiled_call_impl = None
        torch.compiler.reset()
    assert first
    assert len(graphs) == first
    assert named(stats)["vae.decode"] > 0
    assert ("text_encoder" in named(stats)) == whole


def test_nothing_is_on_the_denoiser_nor_on_what_it_is_wrapped_in():
    """During the call too, and its time is counted once."""
    pipe = make("flux")
    model = pipe.transformer
    on: list[int] = []

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.config, self.cache_context = model.config, model.cache_context
            self.dtype, self.device = model.dtype, model.device

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            on.append(len(self._forward_hooks) + len(self._forward_pre_hooks))
            return self.inner(*args, **kwargs)

    with autocache.patched(pipe, "fora") as patch:
        own = len(model._forward_hooks)
        handle = model.transformer_blocks[0].register_forward_hook(
            lambda *_: on.append(len(model._forward_hooks) - own)
        )
        run(pipe, steps=4)
        pipe.transformer = Wrapper()
        run(pipe, steps=4)
        handle.remove()
        stats = patch.stats()
        pipe.transformer = model
    assert stats.generations == 2
    assert len(on) > 4
    assert set(on) == {0}
    assert "transformer" not in named(stats)
    assert stats.times.denoiser == pytest.approx(stats.seconds)
