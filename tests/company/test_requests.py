"""Generations that take turns in one thread: requests keep them apart, and without they are told.

Every comparison is bit for bit with what the same generation gives alone.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from company.side_by_side import blocks_run, same
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache.api import attach
from autocache.errors import ConcurrencyError, PatchError
from autocache.runtime.scope import present
from devices import DEVICE

FLUX = "FluxTransformer2DModel"
TIMES = [
    [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],
    [0.99, 0.77, 0.55, 0.33, 0.22, 0.11],
]
"""Of three generations, which look like one where they are mixed."""

Made = Generator[list[torch.Tensor], None, None]
"""The latents of a generation so far, after each step."""

STRATEGIES = ("dit_block", "attention", "teacache", "taylorseer")


class Stopped(Exception):
    """Raised by a test in the middle of a generation."""


class Steps:
    """One generation of a bare model, taken step by step by hand."""

    def __init__(self, model: nn.Module, number: int) -> None:
        self.model, self.times = model, TIMES[number]
        self._inputs = tiny.build(FLUX)[1]
        noise = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(number))
        self.latent = noise.to(DEVICE)
        self.made: list[torch.Tensor] = []

    @property
    def over(self) -> bool:
        return len(self.made) == len(self.times)

    @torch.no_grad()
    def step(self) -> None:
        given = self._inputs(self.times[len(self.made)])
        output = self.model(**{**given, "hidden_states": self.latent})[0]
        self.latent = self.latent - 0.1 * output
        self.made.append(self.latent)


def _alone(strategy: str) -> list[list[torch.Tensor]]:
    model, _ = tiny.build(FLUX)
    made = []
    for number in range(len(TIMES)):
        with autocache.patch(model, tiny.choice(strategy)) as patch:
            steps = Steps(model, number)
            while not steps.over:
                steps.step()
            assert patch.stats().attention.share < 1
        made.append(steps.made)
    return made


def _patched(strategy: str) -> tuple[nn.Module, autocache.Patch]:
    model, _ = tiny.build(FLUX)
    return model, autocache.patch(model, tiny.choice(strategy))


ORDERS = {
    "in turn": [0, 1, 2] * 8,
    "one ahead": [0, 0, 0, *[1, 0] * 5, *[1] * 3, *[2] * 6],
    "irregular": [0, 1, 1, 0, 2, 1, 0, 0, 2, 2, 1, 0, 1, 1, 2, 0, 2, 0, 1, 0, 1, 2],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_steps_by_hand_in_any_order(strategy: str, order: str) -> None:
    """Each step within its own request: as if each generation had been alone."""
    alone = _alone(strategy)
    model, patch = _patched(strategy)
    requests = [autocache.request(model) for _ in TIMES]
    generations = [Steps(model, number) for number in range(len(TIMES))]
    with blocks_run(model):
        for number in ORDERS[order]:
            if not generations[number].over:
                with requests[number].active():
                    generations[number].step()
    for generation, expected in zip(generations, alone, strict=True):
        assert generation.over
        assert same(generation.made, expected)
    assert patch.stats().generations == 3
    assert patch.stats().bytes_held > 0
    for request in requests:
        request.close()
    assert patch.stats().bytes_held == 0


def _each_step(model: nn.Module, number: int) -> Made:
    steps, request = Steps(model, number), autocache.request(model)
    while not steps.over:
        with request.active():
            steps.step()
        yield steps.made
    request.close()


def _without(model: nn.Module, number: int) -> Made:
    steps = Steps(model, number)
    while not steps.over:
        steps.step()
        yield steps.made


def _across_yields(model: nn.Module, number: int) -> Made:
    steps = Steps(model, number)
    with autocache.request(model):
        while not steps.over:
            steps.step()
            yield steps.made


Generation = Callable[[nn.Module, int], Made]


def _interleaved(
    model: nn.Module, generation: Generation, order: list[int]
) -> list[list[torch.Tensor]]:
    generators = [generation(model, number) for number in range(len(TIMES))]
    made: list[list[torch.Tensor]] = [[] for _ in TIMES]
    for number in order:
        made[number] = next(generators[number], made[number])
    return made


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generators_with_a_request_each(strategy: str, order: str) -> None:
    """Selected around each step, in whatever order they are resumed."""
    alone = _alone(strategy)
    model, _ = _patched(strategy)
    made = _interleaved(model, _each_step, ORDERS[order])
    for got, expected in zip(made, alone, strict=True):
        assert same(got, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generators_without_requests_are_refused(strategy: str, order: str) -> None:
    """Never a wrong latent: until it is clear that they take turns, everything is computed."""
    plain, _ = tiny.build(FLUX)
    model, _ = _patched(strategy)
    generators = [_without(model, number) for number in range(len(TIMES))]
    beside = [Steps(plain, number) for number in range(len(TIMES))]
    last = None

    def resume(number: int) -> bool:
        nonlocal last
        made, steps = next(generators[number]), beside[number]
        steps.latent = steps.made[-1] if steps.made else steps.latent
        steps.step()
        if number != last:
            # Nothing that another one left stands in: it is what an unpatched model gives.
            assert torch.equal(made[-1], steps.made[-1])
        steps.made[-1] = made[-1]
        last = number
        return True

    with pytest.raises(ConcurrencyError, match=r"by turns.*autocache\.request\(model\)"):
        all(map(resume, ORDERS[order]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_request_entered_across_a_yield_is_refused(strategy: str) -> None:
    """Two generators that each stay within theirs would use whichever was entered last."""
    alone = _alone(strategy)
    model, _ = _patched(strategy)
    first, second = (_across_yields(model, number) for number in (0, 1))
    next(first)
    next(second)
    with pytest.raises(ConcurrencyError, match="by turns"):
        next(first)
    first.close()
    # One that is alone may stay within, and when all have ended none is selected any more.
    second.close()
    assert present() is None
    *_, made = _across_yields(model, 2)
    assert same(made, alone[2])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_generator_after_another(strategy: str) -> None:
    """Also where one is left in the middle, or a later one is made in the place of a dead one."""
    alone = _alone(strategy)
    model, _ = _patched(strategy)
    for _ in range(3):
        next(_without(model, 0))
        for number in (0, 1, 2):
            *_, made = _without(model, number)
            assert same(made, alone[number])


def _by_helper(model: nn.Module, number: int) -> Made:
    def step() -> Generator[None, None, None]:
        steps.step()
        yield

    steps = Steps(model, number)
    request = autocache.request(model)
    while not steps.over:
        with request.active():
            next(step())
        yield steps.made


def test_a_generator_for_each_step() -> None:
    """A request does not mind where the calls of a step come from."""
    alone = _alone("dit_block")
    model, _ = _patched("dit_block")
    *_, made = _by_helper(model, 1)
    assert same(made, alone[1])


# asyncio


async def _task(model: nn.Module, number: int, within: bool) -> list[torch.Tensor]:
    steps = Steps(model, number)

    async def step() -> None:
        steps.step()

    async def all_steps() -> None:
        while not steps.over:
            await step()
            await asyncio.sleep(0)

    if within:
        with autocache.request(model):
            await all_steps()
    else:
        await all_steps()
    return steps.made


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tasks_with_a_request_each(strategy: str) -> None:
    """A task stays within its own over every await."""
    alone = _alone(strategy)
    model, patch = _patched(strategy)

    async def all_at_once() -> list[list[torch.Tensor]]:
        return await asyncio.gather(*(_task(model, n, True) for n in range(len(TIMES))))

    for made, expected in zip(asyncio.run(all_at_once()), alone, strict=True):
        assert same(made, expected)
    assert patch.stats().bytes_held == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tasks_without_requests_are_refused(strategy: str) -> None:
    model, _ = _patched(strategy)

    async def all_at_once() -> Any:
        return await asyncio.gather(*(_task(model, n, False) for n in range(len(TIMES))))

    with pytest.raises(ConcurrencyError, match=r"by turns.*autocache\.request\(model\)"):
        asyncio.run(all_at_once())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_task_after_another(strategy: str) -> None:
    """A single loop needs none, also where each step is a coroutine of its own."""
    alone = _alone(strategy)
    model, _ = _patched(strategy)

    async def in_turn() -> list[list[torch.Tensor]]:
        return [await _task(model, number, False) for number in range(len(TIMES))]

    for made, expected in zip(asyncio.run(in_turn()), alone, strict=True):
        assert same(made, expected)


def test_async_generators_in_one_task() -> None:
    """They take turns as others do: refused without requests, right with one each."""
    alone = _alone("dit_block")
    model, _ = _patched("dit_block")

    async def stream(number: int, generation: Generation) -> AsyncIterator[list[torch.Tensor]]:
        for made in generation(model, number):
            yield made

    async def interleaved(generation: Generation) -> list[list[torch.Tensor]]:
        streams = [stream(number, generation) for number in range(len(TIMES))]
        made: list[list[torch.Tensor]] = [[] for _ in TIMES]
        for number in ORDERS["irregular"]:
            made[number] = await anext(streams[number], made[number])
        return made

    for got, expected in zip(asyncio.run(interleaved(_each_step)), alone, strict=True):
        assert same(got, expected)
    with pytest.raises(ConcurrencyError, match="by turns"):
        asyncio.run(interleaved(_without))


def test_to_thread() -> None:
    """Steps, or whole generations, that are handed to threads use the request of their task."""
    alone = _alone("dit_block")
    model, _ = _patched("dit_block")
    pipe = make("flux")
    autocache.patch(pipe, "dit_block")
    drawn = [run(pipe, seed=seed) for seed in range(3)]

    async def steps(number: int) -> list[torch.Tensor]:
        generation = Steps(model, number)
        request = autocache.request(model)
        while not generation.over:
            with request.active():
                await asyncio.to_thread(generation.step)
        return generation.made

    async def picture(seed: int) -> torch.Tensor:
        with autocache.request(pipe) as own:
            return await asyncio.to_thread(partial(run, own, seed=seed))

    async def all_at_once() -> tuple[list[Any], list[Any]]:
        stepped = await asyncio.gather(*map(steps, range(3)))
        return stepped, await asyncio.gather(*map(picture, range(3)))

    stepped, pictures = asyncio.run(all_at_once())
    for got, expected in zip(stepped, alone, strict=True):
        assert same(got, expected)
    assert same(pictures, drawn)


# A generation within a generation.


def _previewed(pipe: Any, preview: Callable[[], Any], **asked: Any) -> torch.Tensor:
    def callback(_: Any, step: int, timestep: Any, given: dict) -> dict:
        if step in (2, 4):
            preview()
        return given

    return run(pipe, **asked, callback_on_step_end=callback)


@pytest.mark.parametrize("strategy", ["dit_block", "attention", "teacache", "fastercache"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_preview_in_a_callback(name: str, strategy: str) -> None:
    """On the pipeline itself it is refused and spoils nothing; with a request both are right."""
    pipe = make(name)
    autocache.patch(pipe, tiny.choice(strategy))
    expected = run(pipe, guided=True)
    preview = run(pipe, steps=5, seed=3)
    seen = []

    def refused() -> None:
        with pytest.raises(ConcurrencyError, match=r"under way in this thread.*autocache\.request"):
            run(pipe, steps=5, seed=3)
        seen.append(True)

    assert torch.equal(_previewed(pipe, refused, guided=True), expected)
    assert len(seen) == 2

    def requested() -> None:
        with autocache.request(pipe) as own:
            assert torch.equal(run(own, steps=5, seed=3), preview)
        seen.append(True)

    assert torch.equal(_previewed(pipe, requested, guided=True), expected)
    assert len(seen) == 4
    with autocache.request(pipe) as own:
        assert torch.equal(_previewed(own, requested, guided=True), expected)


def test_a_preview_with_another_pipeline() -> None:
    """Another pipeline of the same model, with a scheduler of its own, is a generation of its own;
    so is one that breaks off."""
    pipe = make("flux")
    patch = autocache.patch(pipe, "dit_block")
    expected, preview = run(pipe), run(pipe, steps=5, seed=3)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)
    other = diffusers.FluxPipeline.from_pipe(pipe, scheduler=scheduler)
    other.set_progress_bar_config(disable=True)
    attach(other)

    def draws() -> None:
        assert torch.equal(run(other, steps=5, seed=3), preview)

    assert torch.equal(_previewed(pipe, draws), expected)

    def breaks_off() -> None:
        def stops(*_: Any) -> dict:
            raise Stopped

        with pytest.raises(Stopped):
            run(other, steps=5, callback_on_step_end=stops)

    assert torch.equal(_previewed(pipe, breaks_off), expected)
    assert patch.stats().bytes_held == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_inside_a_call(strategy: str) -> None:
    """A hook on a block that calls the model again is refused; within a request it may."""
    alone = _alone(strategy)
    model, _ = _patched(strategy)
    outcomes: list[str] = []

    def calls_again(*_: Any) -> None:
        if outcomes and outcomes[-1] == "inside":
            return
        outcomes.append("inside")
        try:
            if len(outcomes) > 2:
                with autocache.request(model):
                    Steps(model, 2).step()
                outcomes[-1] = "made"
            else:
                Steps(model, 2).step()
        except ConcurrencyError as error:
            outcomes[-1] = str(error)

    handle = model.get_submodule("transformer_blocks.0").register_forward_hook(calls_again)
    steps = Steps(model, 0)
    while not steps.over:
        steps.step()
    handle.remove()
    assert all("in the middle of a call of its own" in told for told in outcomes[:2])
    assert set(outcomes[2:]) == {"made"}
    assert same(steps.made, alone[0])


# What a request is.


@pytest.mark.parametrize("name", ["flux", "wan", "sd"])
def test_the_pipeline_of_a_request(name: str) -> None:
    """Its own object of the same class; the denoisers and every weight are the patched one's."""
    pipe = make(name)
    autocache.patch(pipe, "attention")
    components = dict(pipe.components)
    with autocache.request(pipe) as own:
        assert type(own) is type(pipe)
        assert own is not pipe
        assert autocache.is_patched(own)
        assert list(own.components) == list(components)
        assert own.scheduler is not pipe.scheduler
        assert own.scheduler.config == pipe.scheduler.config
        for part, theirs in zip(own.components.values(), components.values(), strict=True):
            if isinstance(part, nn.Module):
                pairs = zip(part.parameters(), theirs.parameters(), strict=True)
                assert all(mine is other for mine, other in pairs)
        for attribute in ("transformer", "transformer_2", "unet"):
            assert getattr(own, attribute, None) is getattr(pipe, attribute, None)
        own.scheduler = diffusers.DDIMScheduler()
        run(own) if name == "sd" else None
        assert repr(own) == repr(own)
    assert all(pipe.components[key] is part for key, part in components.items())
    assert "Request" not in repr(pipe)


def test_what_a_request_keeps_goes_with_it() -> None:
    """Closed or forgotten, nothing is held, and the pipeline is free to go."""
    pipe = make("flux")
    patch = autocache.patch(pipe, "dit_block")

    def stops(drawing: Any, step: int, *_: Any) -> dict:
        held.append(autocache.stats(drawing).bytes_held)
        if step == 4:
            raise Stopped
        return {}

    held: list[int] = []
    with pytest.raises(Stopped), autocache.request(pipe) as own:
        run(own, callback_on_step_end=stops)
    assert held[-1] > 0
    assert patch.stats().bytes_held == 0

    request = autocache.request(pipe.transformer)
    with request.active():
        steps = Steps(pipe.transformer, 0)
        for _ in range(4):
            steps.step()
    assert patch.stats().bytes_held > 0
    gone = weakref.ref(request)
    del request
    gc.collect()
    assert gone() is None
    assert patch.stats().bytes_held == 0

    own_gone, pipe_gone = weakref.ref(own), weakref.ref(pipe)
    del own, pipe, patch
    gc.collect()
    assert own_gone() is None
    assert pipe_gone() is None


def test_a_request_outlives_its_patch() -> None:
    """Patched anew it goes on with the new strategy, unpatched it draws plainly."""
    pipe = make("flux")
    plain = run(pipe)
    autocache.patch(pipe, "dit_block")
    request = autocache.request(pipe)
    with autocache.patch(pipe, "attention"):
        expected = run(pipe)
        assert torch.equal(run(request.target), expected)
    assert torch.equal(run(request.target), plain)
    with autocache.patch(pipe, "attention"):
        assert torch.equal(run(request.target), expected)
        with request.active():
            assert torch.equal(run(pipe), expected)
    request.close()


def test_what_is_refused() -> None:
    pipe = make("flux")
    with pytest.raises(PatchError, match=r"FluxPipeline is not patched.*autocache\.patch"):
        autocache.request(pipe)
    autocache.patch(pipe, "dit_block")
    request = autocache.request(pipe)
    assert "open" in repr(request)
    request.close()
    request.close()
    assert "closed" in repr(request)
    with pytest.raises(ConcurrencyError, match=r"closed.*autocache\.request"), request.active():
        pass
    pipe.feature_extractor = (number for number in range(3))
    pipe.register_modules(image_encoder=None)
    with pytest.raises(PatchError, match="feature_extractor, a generator, cannot be copied"):
        autocache.request(pipe)


def test_leaving_requests_in_another_order() -> None:
    """What is selected then is not what one would think: it is told."""
    model, _ = _patched("dit_block")
    first, second = autocache.request(model).active(), autocache.request(model).active()
    first.__enter__()
    second.__enter__()
    with pytest.raises(ConcurrencyError, match="left before the second"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)


@torch.no_grad()
def _with_scheduler(pipe: Any, seed: int, steps: int) -> Made:
    """A loop of one's own with the pipeline's scheduler."""
    _, inputs = tiny.build(FLUX)
    latent = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    made = []
    pipe.scheduler.set_timesteps(steps)
    for time in pipe.scheduler.timesteps:
        given = {**inputs(float(time) / 1000), "hidden_states": latent}
        latent = pipe.scheduler.step(pipe.transformer(**given)[0], time, latent)[0]
        made.append(latent)
        yield made


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_generators_on_one_scheduler(ahead: int) -> None:
    """The later takes the scheduler over and is right; the earlier is refused when it goes on."""
    pipe = make("flux")
    with autocache.patch(pipe, "dit_block"):
        *_, expected = _with_scheduler(pipe, 1, 7)
    autocache.patch(pipe, "dit_block")
    first, second = _with_scheduler(pipe, 0, 9), _with_scheduler(pipe, 1, 7)
    for _ in range(ahead + 1):
        next(first)
    next(second)
    next(second)
    with pytest.raises(ConcurrencyError, match=r"by turns.*autocache\.request"):
        next(first)
    *_, made = second
    assert same(made, expected)
    # Each with a pipeline of its own and selected around its steps, both are right.
    requests = [autocache.request(pipe) for _ in range(2)]
    loops = [_with_scheduler(r.target, 1, 7) for r in requests]
    for _ in range(7):
        for request, loop in zip(requests, loops, strict=True):
            with request.active():
                made = next(loop)
    assert same(made, expected)
