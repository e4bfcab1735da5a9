"""Threads on one patched pipeline or model: the pictures of serial runs, or an error that says how.

Every comparison is bit for bit, and what was skipped is counted by hooks of the test's own.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from company.side_by_side import PATIENCE, Held, at_once, blocks_run, same, switching_often
from pipelines.tiny_pipelines import denoisers, flux, make, run

import autocache
import tiny
from autocache.api import attach
from autocache.errors import AutocacheError, ConcurrencyError
from autocache.requests import Request
from autocache.runtime.root import session_of
from devices import DEVICE

CASES = {
    "dit_block": ("flux", "dit_block"),
    "attention": ("flux", "attention"),
    "teacache": ("flux", tiny.choice("teacache")),
    "fbcache": ("flux", ("fbcache", {"threshold": 0.5})),
    "easycache": ("flux", ("easycache", {"threshold": 5.0})),
    "taylorseer": ("wan", "taylorseer"),
    "fastercache": ("wan", "fastercache"),
    "deepcache": ("sd", "deepcache"),
}
"""Blocks, attention, probes, the whole denoiser, an unconditional branch, and a UNet's levels."""

ASKED: list[dict[str, Any]] = [
    {"seed": 0, "steps": 7, "guided": True},
    {"seed": 1, "steps": 9, "guided": True},
    {"seed": 2, "steps": 7, "guided": False},
    {"seed": 3, "steps": 8, "guided": True, "batch": 2},
]
"""What four users want at the same time."""


class Stopped(Exception):
    """Raised by a test in the middle of a loop."""


def _first_block(pipe: Any) -> torch.nn.Module:
    """A module that runs in every step that computes anything."""
    model = denoisers(pipe)[0]
    for path in ("transformer_blocks.0", "blocks.0", "down_blocks.0"):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    raise AssertionError


def _requested(pipe: Any, asked: dict[str, Any]) -> torch.Tensor:
    with autocache.request(pipe) as own:
        return run(own, **asked)


def _patched(case: str) -> tuple[Any, autocache.Patch]:
    name, strategy = CASES[case]
    pipe = make(name)
    return pipe, autocache.patch(pipe, strategy)


def _serial(case: str) -> tuple[list[torch.Tensor], list[int]]:
    """One after another on a pipeline of their own: the pictures, and the blocks each has run."""
    pipe, patch = _patched(case)
    pictures, ran = [], []
    for asked in ASKED:
        with blocks_run(pipe) as counts:
            pictures.append(run(pipe, **asked))
        ran.append(counts.total())
    stats = patch.stats()
    assert min(stats.denoiser.share, stats.blocks.share, stats.attention.share) < 1
    return pictures, ran


@pytest.mark.parametrize("case", CASES)
def test_a_pool_of_threads_draws_what_serial_runs_draw(case: str) -> None:
    """Four threads, each two generations with a request of its own: the same pictures and skips."""
    serial, ran = _serial(case)
    pipe, patch = _patched(case)

    def work(number: int) -> list[tuple[torch.Tensor, int]]:
        drawn = []
        with autocache.request(pipe) as own:
            for asked in (ASKED[number], ASKED[-1 - number]):
                before = counts[threading.get_ident()]
                picture = run(own, **asked)
                drawn.append((picture, counts[threading.get_ident()] - before))
        return drawn

    with blocks_run(pipe) as counts, switching_often():
        results = at_once(*(partial(work, number) for number in range(4)))
    for number, drawn in enumerate(results):
        for at, (picture, blocks) in zip((number, 3 - number), drawn, strict=True):
            assert torch.equal(picture, serial[at])
            assert blocks == ran[at]
    stats = patch.stats()
    assert stats.generations == 8
    assert stats.bytes_held == 0 < stats.bytes_peak
    branches = 1 if CASES[case][0] == "sd" else 2
    calls = sum(a["steps"] * (branches if a["guided"] else 1) for a in ASKED)
    assert stats.passes == len(stats.steps) == 2 * calls
    assert len({record.generation for record in stats.steps}) == 8


def test_requests_made_at_once_are_all_heard() -> None:
    """None is lost, which would count its steps by no scheduler and so skip fewer."""
    pipe, _ = _patched("easycache")
    session = session_of(denoisers(pipe)[0])
    assert session is not None

    def ask(_: int) -> list[Request]:
        return [autocache.request(pipe) for _ in range(200)]

    with switching_often():
        made = at_once(*(partial(ask, number) for number in range(4)))
    heard = session.pipelines
    for request in [request for requests in made for request in requests]:
        assert any(request.target is pipeline for pipeline in heard)


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_thread_stopped_inside_a_block(case: str, nth: int) -> None:
    """While others run whole generations, of other shapes too; then it goes on as if alone."""
    serial, _ = _serial(case)
    pipe, _ = _patched(case)
    held = Held(_first_block(pipe), nth)(lambda: _requested(pipe, ASKED[0]))
    assert same([_requested(pipe, asked) for asked in ASKED], serial)
    assert torch.equal(run(pipe, **ASKED[3]), serial[3])
    assert torch.equal(held.let_go(), serial[0])


@pytest.mark.parametrize("case", ["dit_block", "attention", "easycache", "teacache"])
def test_in_lockstep(case: str) -> None:
    """Three generations of other lengths that wait for each other after every step."""
    serial, _ = _serial(case)
    pipe, _ = _patched(case)
    together = threading.Barrier(3, timeout=PATIENCE)

    def work(asked: dict[str, Any]) -> torch.Tensor:
        def callback(_: Any, step: int, timestep: Any, given: dict) -> dict:
            if step < 6:
                together.wait()
            return given

        with autocache.request(pipe) as own:
            return run(own, **asked, callback_on_step_end=callback)

    assert same(at_once(*(partial(work, asked) for asked in ASKED[:3])), serial[:3])


def test_more_generations_than_threads() -> None:
    """A pool in which threads serve one request after another, and requests go between threads."""
    serial, _ = _serial("dit_block")
    pipe, patch = _patched("dit_block")
    requests = [autocache.request(pipe) for _ in ASKED]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            tasks = [pool.submit(run, r.target, **a) for r, a in zip(requests, ASKED, strict=True)]
            assert same([task.result(PATIENCE) for task in tasks], serial)
    for request in requests:
        request.close()
    assert patch.stats().bytes_held == 0


# One pipeline, without requests.


@pytest.mark.parametrize("other", [ASKED[0], ASKED[2]], ids=["alike", "unguided"])
@pytest.mark.parametrize("case", ["dit_block", "easycache", "deepcache"])
def test_two_at_once_on_one_pipeline(case: str, other: dict[str, Any]) -> None:
    """The second is refused with the way to do it, and the first draws what it would alone."""
    serial, _ = _serial(case)
    pipe, _ = _patched(case)
    held = Held(_first_block(pipe), 2)(lambda: run(pipe, **ASKED[0]))
    with pytest.raises(ConcurrencyError, match=r"under way in another thread.*autocache\.request"):
        run(pipe, **other)
    assert torch.equal(held.let_go(), serial[0])
    # What was refused and what is over stand in nobody's way.
    assert torch.equal(run(pipe, **ASKED[3]), serial[3])
    assert torch.equal(at_once(lambda: run(pipe, **ASKED[1]))[0], serial[1])


def test_a_pool_on_one_pipeline() -> None:
    """Whatever the threads' luck: each picture is right or refused, and one at least is right."""
    serial, _ = _serial("dit_block")
    pipe, _ = _patched("dit_block")

    def work(asked: dict[str, Any]) -> torch.Tensor | None:
        try:
            return run(pipe, **asked)
        except ConcurrencyError:
            return None

    with switching_often():
        drawn = at_once(*(partial(work, asked) for asked in ASKED))
    assert any(picture is not None for picture in drawn)
    for picture, expected in zip(drawn, serial, strict=True):
        assert picture is None or torch.equal(picture, expected)


@pytest.mark.parametrize("cls", [diffusers.FluxPipeline, diffusers.FluxImg2ImgPipeline])
def test_another_pipeline_on_the_same_scheduler(cls: type) -> None:
    """What `from_pipe` makes shares the scheduler: it is refused while that is in use."""
    pipe = flux().to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    patch = autocache.patch(pipe, "dit_block")
    expected = run(pipe)
    shared = cls.from_pipe(pipe)
    image = (
        {"image": torch.rand(1, 3, 8, 8, device=DEVICE), "strength": 1.0}
        if "Img2Img" in cls.__name__
        else {}
    )
    held = Held(_first_block(pipe), 2)(lambda: run(pipe))
    with pytest.raises(ConcurrencyError, match=r"autocache\.request"):
        run(shared, **image)
    assert torch.equal(held.let_go(), expected)
    assert run(shared, **image).isfinite().all()
    assert patch.stats().bytes_held == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["callback", "block"])
def test_a_failure_stands_in_nobodys_way(where: str, error: type[BaseException]) -> None:
    """A thread whose generation broke off, and which lives on, blocks no later one."""
    serial, _ = _serial("dit_block")
    pipe, patch = _patched("dit_block")

    def fails(*_: Any) -> Any:
        raise error("stopped")

    def broken() -> type[BaseException]:
        options: Any = {"callback_on_step_end": fails} if where == "callback" else {}
        hook = _first_block(pipe).register_forward_hook(fails) if where == "block" else None
        try:
            run(pipe, **ASKED[0], **options)
        except error:
            return error
        finally:
            if hook is not None:
                hook.remove()
        raise AssertionError

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(broken).result(PATIENCE) is error
        assert torch.equal(run(pipe, **ASKED[1]), serial[1])
        assert torch.equal(pool.submit(run, pipe, **ASKED[2]).result(PATIENCE), serial[2])
        assert patch.stats().bytes_held == 0


# Loops of one's own.


@torch.no_grad()
def _loop(
    pipe: Any, seed: int, steps: int | None, between: Callable[[int], None] | None = None
) -> torch.Tensor:
    """A sampling loop by hand with the pipeline's own scheduler; without `steps` it has them."""
    _, inputs = tiny.build("FluxTransformer2DModel")
    latent = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    if steps is not None:
        pipe.scheduler.set_timesteps(steps)
    for step, time in enumerate(pipe.scheduler.timesteps):
        given = {**inputs(float(time) / 1000), "hidden_states": latent}
        latent = pipe.scheduler.step(pipe.transformer(**given)[0], time, latent)[0]
        if between is not None:
            between(step)
    return latent


def test_two_loops_on_one_scheduler() -> None:
    """The second takes the scheduler over and is right; the first is told at its next step."""
    pipe = make("flux")
    with autocache.patch(pipe, "dit_block"):
        expected = _loop(pipe, 1, 7)
    autocache.patch(pipe, "dit_block")
    midway, go = threading.Event(), threading.Event()

    def between(step: int) -> None:
        if step == 3:
            midway.set()
            assert go.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_loop, pipe, 0, 7, between)
        assert midway.wait(PATIENCE)
        seen = []

        def lets_go(step: int) -> None:
            if step == 2:
                go.set()
                seen.append(first.exception(PATIENCE))

        assert torch.equal(_loop(pipe, 1, 7, lets_go), expected)
        with pytest.raises(ConcurrencyError, match=r"by turns.*autocache\.request"):
            raise seen[0]
        # Its generation is over, and it can begin another one.
        assert torch.equal(pool.submit(_loop, pipe, 1, 7).result(PATIENCE), expected)


def test_an_abandoned_loop_leaves_its_scheduler_to_others() -> None:
    """Broken off between two steps in a thread that lives on, it can be begun from any thread."""
    pipe = make("flux")
    with autocache.patch(pipe, "dit_block"):
        expected = _loop(pipe, 1, 7)
    autocache.patch(pipe, "dit_block")

    def stops(step: int) -> None:
        if step == 3:
            raise Stopped

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Stopped):
            pool.submit(_loop, pipe, 0, 7, stops).result(PATIENCE)
        assert torch.equal(_loop(pipe, 1, 7), expected)
        assert torch.equal(pool.submit(_loop, pipe, 1, 7).result(PATIENCE), expected)
        with pytest.raises(Stopped):
            _loop(pipe, 0, 7, stops)
        assert torch.equal(pool.submit(_loop, pipe, 1, 7).result(PATIENCE), expected)


def test_timesteps_set_in_one_thread_for_a_loop_in_another() -> None:
    """What one thread prepares may be run by another."""
    pipe = make("flux")
    autocache.patch(pipe, "dit_block")
    expected = _loop(pipe, 1, 7)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(pipe.scheduler.set_timesteps, 7).result(PATIENCE)
            assert torch.equal(_loop(pipe, 1, None), expected)


# Patches that change while another thread is at work.


def test_stats_while_others_draw() -> None:
    """Every count that is read adds up, and in the end nothing was counted twice or lost."""
    pipe, patch = _patched("dit_block")
    done = threading.Event()

    def work(asked: dict[str, Any]) -> None:
        _requested(pipe, asked)

    def watch() -> int:
        read = 0
        while not done.is_set():
            stats = patch.stats()
            str(stats)
            read += 1
        return read

    with ThreadPoolExecutor(1) as pool, switching_often():
        watching = pool.submit(watch)
        at_once(*(partial(work, asked) for asked in ASKED))
        done.set()
        assert watching.result(PATIENCE) > 0
    stats = patch.stats()
    assert stats.passes == len(stats.steps) == sum(a["steps"] * (1 + a["guided"]) for a in ASKED)
    assert stats.blocks.total == 6 * stats.passes
    skipped = sum(record.blocks_skipped for record in stats.steps)
    assert stats.blocks.run == stats.blocks.total - skipped < stats.blocks.total


CHANGES: dict[str, Callable[[Any, autocache.Patch], Any]] = {
    "unpatch": lambda pipe, patch: autocache.unpatch(pipe),
    "Patch.unpatch": lambda pipe, patch: patch.unpatch(),
    "replace": lambda pipe, patch: autocache.patch(pipe, "attention"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_patch_in_the_middle_of_a_call_stays(name: str, change: str) -> None:
    """Taken off within a call it would leave half of it skipped: refused, and nothing changes."""
    pipe = make(name)
    plain = run(pipe)
    with autocache.patch(pipe, "dit_block"):
        expected = run(pipe)
    patch = autocache.patch(pipe, "dit_block")
    held = Held(_first_block(pipe), 3)(lambda: run(pipe))
    with pytest.raises(ConcurrencyError, match=r"under way in 1 other thread.*between two calls"):
        CHANGES[change](pipe, patch)
    assert patch.denoisers == denoisers(pipe)
    assert autocache.stats(pipe).strategy == "dit_block"
    assert torch.equal(held.let_go(), expected)
    CHANGES[change](pipe, patch)
    if change != "replace":
        assert not autocache.is_patched(pipe)
        assert torch.equal(run(pipe), plain)


def _between_steps(pipe: Any, at: int, change: Callable[[], Any]) -> torch.Tensor:
    def callback(_: Any, step: int, timestep: Any, given: dict) -> dict:
        if step == at:
            change()
        return given

    return run(pipe, callback_on_step_end=callback)


BETWEEN: dict[str, Callable[[Any, autocache.Patch], Any]] = {
    **CHANGES,
    "reset": lambda pipe, patch: patch.reset(),
    "disable": lambda pipe, patch: setattr(patch, "enabled", False),
    "stats": lambda pipe, patch: patch.stats(),
}


@pytest.mark.parametrize("change", BETWEEN)
def test_a_patch_changed_between_two_steps(change: str) -> None:
    """By another thread it does what it does by the thread that draws."""
    pipe, other = make("flux"), make("flux")
    patch = autocache.patch(pipe, "dit_block", step_start=0)
    expected = _between_steps(pipe, 3, lambda: BETWEEN[change](pipe, patch))
    patch = autocache.patch(other, "dit_block", step_start=0)
    with ThreadPoolExecutor(1) as pool:

        def elsewhere() -> None:
            pool.submit(BETWEEN[change], other, patch).result(PATIENCE)

        assert torch.equal(_between_steps(other, 3, elsewhere), expected)
        if change == "reset":
            assert patch.stats().passes == 4


@pytest.mark.parametrize("change", ["reset", "disable"])
def test_a_patch_changed_in_the_middle_of_a_call(change: str) -> None:
    """The call under way ends as it began; from the next on it is as if done between the two."""
    pipe, other = make("flux"), make("flux")
    # Blocks 0 and 5 run in every call, also where the ones in between are skipped.
    options = {"step_start": 0, "step_interval": 2, "blocks": (1, 5)}
    patch = autocache.patch(pipe, "dit_block", **options)
    expected = _between_steps(pipe, 3, lambda: BETWEEN[change](pipe, patch))
    patch = autocache.patch(other, "dit_block", **options)
    # The fourth call skips.
    held = Held(_first_block(other), 4)(lambda: run(other))
    BETWEEN[change](other, patch)
    assert torch.equal(held.let_go(), expected)
    assert patch.stats().bytes_held == 0


def test_patching_from_several_threads() -> None:
    """One of the patches is on the model in the end, whole, and one unpatch takes it off."""
    pipe = make("flux")
    plain, keys = run(pipe), [sorted(vars(module)) for module in pipe.transformer.modules()]
    names = ["dit_block", "attention", "fbcache", "dit_block"]
    expected = []
    for name in names:
        with autocache.patch(pipe, name):
            expected.append(run(pipe))
    with switching_often():
        at_once(*(partial(autocache.patch, pipe, name) for name in names))
    strategy = autocache.stats(pipe).strategy
    assert torch.equal(run(pipe), expected[names.index(strategy)])
    autocache.unpatch(pipe)
    assert [sorted(vars(module)) for module in pipe.transformer.modules()] == keys
    assert torch.equal(run(pipe), plain)


def test_requests_come_and_go_while_others_draw() -> None:
    """Making and closing them disturbs no generation under way."""
    serial, _ = _serial("dit_block")
    pipe, _ = _patched("dit_block")
    done = threading.Event()

    def comes_and_goes() -> int:
        made = 0
        while not done.is_set() or not made:
            with autocache.request(pipe):
                made += 1
            gc.collect(0)
        return made

    with ThreadPoolExecutor(1) as pool, switching_often():
        busy = pool.submit(comes_and_goes)
        drawn = at_once(*(partial(_requested, pipe, asked) for asked in ASKED))
        done.set()
        assert busy.result(PATIENCE) > 0
    assert same(drawn, serial)


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(ConcurrencyError, AutocacheError)


def test_one_request_for_two_at_once() -> None:
    """Its pipeline serves one generation at a time, as the patched one does."""
    serial, _ = _serial("dit_block")
    pipe, _ = _patched("dit_block")
    with autocache.request(pipe) as own:
        held = Held(_first_block(pipe), 2)(lambda: run(own, **ASKED[0]))
        with pytest.raises(ConcurrencyError, match=r"under way in another thread"):
            run(own, **ASKED[1])
        # Nor does another pipeline, or a loop of one's own, get into its state.
        assert torch.equal(run(pipe, **ASKED[1]), serial[1])
        with pytest.raises(ConcurrencyError, match="this request draws in another thread"):
            _loop(pipe, 1, 7)
        _, inputs = tiny.build("FluxTransformer2DModel")
        with pytest.raises(ConcurrencyError, match="in the middle of a call"), torch.no_grad():
            pipe.transformer(**inputs(0.5))
        assert torch.equal(held.let_go(), serial[0])


class FluxInherited(diffusers.FluxPipeline):
    """Calls the method that it overrides, and another pipeline of its own before."""

    part: Any = None

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.part is not None:
            self.part(*args, **{**kwargs, "generator": torch.Generator().manual_seed(1)})
        return super().__call__(*args, **kwargs)


def test_pipelines_that_call_pipelines() -> None:
    """A call that is made within a call of the same pipeline by itself is no second generation."""
    plain, patch = _patched("dit_block")
    expected = run(plain)
    pipe = FluxInherited(**plain.components)
    pipe.set_progress_bar_config(disable=True)
    attach(pipe)
    assert torch.equal(run(pipe), expected)
    pipe.part = diffusers.FluxPipeline(**plain.components)
    pipe.part.set_progress_bar_config(disable=True)
    for attached in (False, True):
        if attached:
            attach(pipe.part)
        assert torch.equal(run(pipe), expected)
        with autocache.request(pipe) as own:
            # What it calls has the scheduler of the first.
            own.part = autocache.request(pipe.part).target
            assert torch.equal(run(own), expected)
    assert patch.stats().bytes_held == 0


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_in_the_middle_of_a_call(in_place: bool) -> None:
    """Its patch cannot be taken off there either, and its generation ends as it began."""
    pipe = make("flux")
    if in_place:
        pipe.transformer.compile(backend="eager")
    else:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    autocache.patch(pipe, "dit_block")
    block = denoisers(pipe)[0].get_submodule("transformer_blocks.0")
    held = Held(block, 3)
    held(lambda: run(pipe))
    with pytest.raises(ConcurrencyError, match="under way in 1 other thread"):
        autocache.unpatch(pipe)
    with pytest.raises(ConcurrencyError, match=r"autocache\.request"):
        run(pipe)
    picture = held.let_go()
    autocache.unpatch(pipe)
    other = make("flux")
    with autocache.patch(other, "dit_block"):
        assert torch.equal(picture, run(other))
