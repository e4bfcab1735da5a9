"""What users do to a pipeline in the middle of a generation, and to its scheduler."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from company import eager
from pipelines.tiny_pipelines import counted, denoisers, make, run
from torch import nn

import autocache
import tiny
from autocache.errors import ConcurrencyError

EVEN: dict[str, Any] = {"step_start": 0, "step_interval": 2}
STEPS = eager.STEPS
INTERRUPTED = [*{name: (p, name) for p, name in eager.pairs("flux", "wan", "sd")}.values()]
"""Each strategy on one pipeline."""


def at(step: int, act: Callable[[Any], None]) -> dict[str, Any]:
    """A callback that does something to the pipeline after a step."""

    def callback(pipe: Any, now: int, time: Any, given: dict) -> dict:
        if now == step:
            act(pipe)
        return given

    return {"callback_on_step_end": callback}


@pytest.mark.parametrize(
    ("nth", "pipeline", "strategy"), [(n, *c) for n, c in enumerate(INTERRUPTED)]
)
def test_interrupted(nth: int, pipeline: str, strategy: str) -> None:
    """`pipe._interrupt` goes through the rest of the steps without calling anything: nothing is
    kept of that generation, and the next is that of a fresh pipeline."""
    pipe = make(pipeline)
    patch = eager.patch(pipe, strategy)
    given = {"steps": STEPS, "guided": True}
    expected = run(pipe, **given)
    acted = [step.action for step in patch.stats().steps]
    patch.reset()
    run(pipe, **given, **at(nth % 2, lambda p: setattr(p, "_interrupt", True)))
    assert patch.stats().passes < len(acted)
    assert patch.stats().bytes_held == 0
    patch.reset()
    assert torch.equal(run(pipe, **given), expected)
    assert [step.action for step in patch.stats().steps] == acted


OFF: dict[str, Callable[[Any], None]] = {
    "unpatch": autocache.unpatch,
    "enabled": lambda pipe: setattr(session_patch(pipe), "enabled", False),
}
ANEW: dict[str, Callable[[Any], Any]] = {
    "reset": lambda pipe: session_patch(pipe).reset(),
    "off and on": lambda pipe: (
        setattr(session_patch(pipe), "enabled", False),
        setattr(session_patch(pipe), "enabled", True),
    ),
    "the same again": lambda pipe: autocache.patch(pipe, "dit_block", **EVEN),
    "another": lambda pipe: autocache.patch(pipe, "fora"),
    "off, and patched": lambda pipe: (
        autocache.unpatch(pipe),
        autocache.patch(pipe, "dit_block", **EVEN),
    ),
}
patches: dict[int, autocache.Patch] = {}


def session_patch(pipe: Any) -> autocache.Patch:
    return patches[id(pipe)]


def patched(name: str, **options: Any) -> tuple[Any, autocache.Patch]:
    pipe = make(name)
    patch = patches[id(pipe)] = autocache.patch(pipe, "dit_block", **EVEN, **options)
    return pipe, patch


@pytest.mark.parametrize("how", OFF)
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_taken_off_after_a_step(name: str, how: str) -> None:
    """From the next step on all is computed, as by a strategy that skips up to this step only."""
    for step in (0, 1, 3):
        reference, _ = patched(name, step_window=(0, step))
        expected = run(reference, steps=STEPS)
        pipe, _ = patched(name)
        with counted(pipe) as counts:
            assert torch.equal(run(pipe, steps=STEPS, **at(step, OFF[how])), expected)
        blocks = counts["block"].total() // len(denoisers(pipe))
        assert blocks > 0
        plain = make(name)
        assert torch.equal(run(pipe, steps=STEPS), run(plain, steps=STEPS))


@pytest.mark.parametrize("how", ANEW)
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_started_anew_after_a_step(name: str, how: str) -> None:
    """The next step finds nothing kept and is computed; the next generation is a fresh one's."""
    other, _ = patched(name)
    if how == "another":
        autocache.patch(other, "fora")
    fresh = run(other, steps=STEPS)
    for step in (0, 2, 4):
        pipe, _ = patched(name)
        recorded: list[int] = []

        def act(pipe: Any, recorded: list[int] = recorded) -> None:
            ANEW[how](pipe)
            assert autocache.stats(pipe).bytes_held == 0
            recorded += [autocache.stats(model).passes for model in denoisers(pipe)]

        run(pipe, steps=STEPS, **at(step, act))
        for model, passes in zip(denoisers(pipe), recorded, strict=True):
            assert {s.action for s in autocache.stats(model).steps[passes:][:1]} <= {"computed"}
        assert sum(autocache.stats(model).passes for model in denoisers(pipe)) > sum(recorded)
        assert autocache.stats(pipe).bytes_held == 0
        assert torch.equal(run(pipe, steps=STEPS), fresh)
        assert autocache.stats(pipe).bytes_held == 0


@pytest.mark.parametrize("strategy", ["dit_block", "attention", "fora", "easycache", "teacache"])
@pytest.mark.parametrize("what", ["reset", "disable"])
def test_from_inside_a_call(strategy: str, what: str) -> None:
    """In the middle of the blocks of a step: the call ends as it began, nothing stays held, and the
    next generation is a fresh one's."""
    pipe = make("flux")
    patch = eager.patch(pipe, strategy)
    expected = run(pipe, steps=STEPS)
    for call in (1, 2):
        calls = [0]

        def act(*_: Any, calls: list[int] = calls, call: int = call) -> None:
            calls[0] += 1
            if calls[0] == call:
                patch.reset() if what == "reset" else setattr(patch, "enabled", False)

        handle = pipe.transformer.transformer_blocks[1].register_forward_hook(act)
        run(pipe, steps=STEPS)
        handle.remove()
        assert calls[0] >= call
        assert patch.stats().bytes_held == 0
        patch.enabled = True
        assert torch.equal(run(pipe, steps=STEPS), expected)
        assert patch.stats().bytes_held == 0


@pytest.mark.parametrize("act", [autocache.unpatch, lambda pipe: autocache.patch(pipe, "fora")])
def test_taken_off_from_inside_a_call(act: Callable[[Any], None]) -> None:
    """That is refused with what to do instead, and the generation is over as after any error."""
    pipe, patch = patched("flux")
    expected = run(pipe, steps=STEPS)
    handle = pipe.transformer.transformer_blocks[1].register_forward_hook(lambda *_: act(pipe))
    with pytest.raises(ConcurrencyError, match="enabled"):
        run(pipe, steps=STEPS)
    handle.remove()
    assert patch.stats().bytes_held == 0
    assert torch.equal(run(pipe, steps=STEPS), expected)


def _files(pipe: Any, folder: Path) -> list[Any]:
    """Everything that can be written of a pipeline, read again."""
    buffer = io.BytesIO()
    torch.save(pipe.transformer, buffer)
    buffer.seek(0)
    pipe.transformer.save_pretrained(folder / "model")
    return [
        pickle.loads(pickle.dumps(pipe.transformer)),
        torch.load(buffer, weights_only=False),
        type(pipe.transformer).from_pretrained(folder / "model"),
    ]


@pytest.mark.parametrize("strategy", ["dit_block", "fora", "auto", "teacache"])
def test_written_between_two_steps(strategy: str, tmp_path: Path) -> None:
    """Files made in mid-generation hold plain models, and the generation goes on as if none was."""
    pipe, plain = make("flux"), run(make("flux"), steps=STEPS)
    eager.patch(pipe, strategy)
    expected = run(pipe, steps=STEPS)
    read: list[Any] = []
    for step in (0, 3):
        done = run(pipe, steps=STEPS, **at(step, lambda p: read.extend(_files(p, tmp_path))))
        assert torch.equal(done, expected)
    classes = [type(module) for module in make("flux").transformer.modules()]
    for model in read:
        assert not autocache.is_patched(model)
        assert [type(module) for module in model.modules()] == classes
        other = make("flux")
        other.transformer = model
        assert torch.equal(run(other, steps=STEPS), plain)
    assert torch.equal(run(pipe, steps=STEPS), expected)


@pytest.mark.parametrize("strategy", ["dit_block", "fora", "auto", "teacache"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_copied_between_two_steps(name: str, strategy: str) -> None:
    """The original goes on as before; the copy starts with nothing, and does the same."""
    pipe = make(name)
    patch = eager.patch(pipe, strategy)
    expected = run(pipe, steps=STEPS)
    copies: list[Any] = []
    for step in (0, 2, 4):
        done = run(pipe, steps=STEPS, **at(step, lambda p: copies.append(copy.deepcopy(p))))
        assert torch.equal(done, expected)
    assert patch.stats().generations == 4
    for copied in copies:
        assert autocache.stats(copied).passes == autocache.stats(copied).bytes_held == 0
        assert torch.equal(run(copied, steps=STEPS), expected)
        autocache.unpatch(copied)
    assert autocache.is_patched(pipe)
    assert torch.equal(run(pipe, steps=STEPS), expected)


@pytest.mark.parametrize(
    "made", [lambda p: type(p)(**p.components), lambda p: type(p).from_pipe(p)]
)
def test_another_pipeline_of_its_parts_between_two_steps(made: Callable[[Any], Any]) -> None:
    """Made of the components in mid-generation, it skips the same once it runs."""
    pipe, patch = patched("flux")
    expected = run(pipe, steps=STEPS)
    others: list[Any] = []
    assert torch.equal(run(pipe, steps=STEPS, **at(2, lambda p: others.append(made(p)))), expected)
    (other,) = others
    other.set_progress_bar_config(disable=True)
    with counted(other) as counts:
        assert torch.equal(run(other, steps=STEPS), expected)
    assert 0 < counts["block"].total() < 6 * STEPS
    assert torch.equal(run(pipe, steps=STEPS), expected)
    assert patch.stats().bytes_held == 0


LOAD = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "autocache":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import pickle, torch
torch.set_num_threads(1)
model, inputs, expected = pickle.load(open(sys.argv[1], "rb"))
with torch.no_grad():
    assert torch.equal(model(**inputs)[0], expected)
print("loaded", type(model).__name__)
"""


def test_pickled_in_mid_generation_for_where_autocache_is_not(tmp_path: Path) -> None:
    """Of a model whose calls are skipped as a whole, between two steps of a pipeline."""
    pipe = make("flux")
    model, inputs = tiny.build("FluxTransformer2DModel")
    with torch.no_grad():
        expected = model(**inputs(0.5))[0]
    eager.patch(pipe, "auto")
    file = tmp_path / "model.pickle"

    def act(p: Any) -> None:
        file.write_bytes(pickle.dumps((p.transformer, inputs(0.5), expected)))

    run(pipe, steps=STEPS, **at(3, act))
    command = [sys.executable, "-c", LOAD, str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded FluxTransformer2DModel"


class Other(diffusers.FlowMatchEulerDiscreteScheduler):
    """A class that was not there when the pipeline was patched, with a step of its own."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


@pytest.mark.parametrize("strategy", [n for n in eager.NAMES if (n, "wan") not in eager.REFUSED])
def test_another_scheduler_from_a_callback(strategy: str) -> None:
    """Swapped for one of the next generation while one runs, which goes on with it as it does
    unpatched; from then on generations are those of a pipeline that always had it."""

    def swap(pipe: Any) -> None:
        before = pipe.scheduler
        other: Any = Other.from_config(before.config, shift=2.0)
        other.set_timesteps(sigmas=before.sigmas[:-1].tolist())
        other.timesteps = before.timesteps
        pipe.scheduler = other

    plain, pipe, fresh = (make("wan") for _ in range(3))
    fresh.scheduler = Other.from_config(fresh.scheduler.config, shift=2.0)
    eager.patch(fresh, strategy)
    expected = run(fresh, steps=STEPS)
    patch = eager.patch(pipe, strategy, enabled=False)
    swapping = {"steps": STEPS, **at(2 if strategy != "fewer_steps" else 0, swap)}
    assert torch.equal(run(pipe, **swapping), run(plain, **swapping))
    patch.enabled = True
    assert torch.equal(run(pipe, steps=STEPS), expected)
    pipe.scheduler = make("wan").scheduler
    assert run(pipe, **swapping).isfinite().all()
    assert patch.stats().bytes_held == 0
    assert torch.equal(run(pipe, steps=STEPS), expected)


class Bare:
    """A scheduler that takes steps and is never told how many."""

    times = (0.9, 0.7, 0.5, 0.3, 0.1)

    def step(self, output: torch.Tensor, time: float, sample: torch.Tensor) -> tuple:
        return (sample - 0.2 * output,)


class Loop(diffusers.DiffusionPipeline):
    """A pipeline with such a scheduler."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)
        self.scheduler = Bare()

    @torch.no_grad()
    def __call__(self, inputs: Callable[[float], dict[str, Any]]) -> torch.Tensor:
        latents = inputs(0.9)["hidden_states"]
        for time in self.scheduler.times:
            given = {**inputs(time), "hidden_states": latents}
            latents = self.scheduler.step(self.transformer(**given)[0], time, latents)[0]
        return latents


@pytest.mark.parametrize("strategy", ["dit_block", "fora", "auto", "teacache", "easycache"])
def test_a_scheduler_without_timesteps(strategy: str) -> None:
    """Steps are told by the time that the denoiser is given, as without a pipeline."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    pipe, plain = Loop(model), Loop(tiny.build("FluxTransformer2DModel")[0])
    patch = eager.patch(pipe, strategy)
    first, second = pipe(inputs), pipe(inputs)
    assert torch.equal(first, second)
    assert [s.step for s in patch.stats().steps] == [*range(5)] * 2
    assert {s.action for s in patch.stats().steps} > {"computed"}
    patch.unpatch()
    assert torch.equal(pipe(inputs), plain(inputs))


@pytest.mark.parametrize("strategy", ["dit_block", "fora", "auto", "fewer_steps"])
def test_two_pipelines_with_one_scheduler(strategy: str) -> None:
    """Each does as if it had it for itself, by turns: two patched ones, and one that is not."""
    one, other, plain = make("flux"), make("flux"), make("flux")
    alone = [run(make("flux"), steps=STEPS)]
    for patched_, name in ((one, strategy), (other, "attention")):
        eager.patch(patched_, name)
        alone.insert(0, run(patched_, steps=STEPS))
    other.scheduler = plain.scheduler = one.scheduler
    before = [autocache.stats(pipe).passes for pipe in (one, other)]
    for _ in range(2):
        drawn = [run(pipe, steps=STEPS) for pipe in (other, one, plain)]
        assert all(map(torch.equal, drawn, alone))
    ran = [autocache.stats(pipe).passes - b for pipe, b in zip((one, other), before, strict=True)]
    assert ran == [2 * before[0], 2 * STEPS]
