"""Leaving out whole denoiser calls: the slot around the model, and all that people do to models."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from pipelines.tiny_pipelines import counted, make, run
from torch import nn

import autocache
import tiny
from autocache.errors import PatchError
from autocache.runtime.root import SLOT

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"
TIMES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
PARTS: dict[str, Any] = {
    "when": autocache.when.Interval(2),
    "where": autocache.where.Denoiser(),
    "how": autocache.how.Extrapolate(1),
}
TRACE = "ccpcpc"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _loop(model: nn.Module, inputs: Any, times: list[float] = TIMES) -> torch.Tensor:
    scale = 1.0 if hasattr(model, "single_transformer_blocks") else 1000.0
    with torch.no_grad():
        return torch.stack([model(**inputs(time * scale))[0] for time in times])


def _fresh(name: str, seed: int = 0) -> torch.Tensor:
    model, _ = tiny.build(name, seed=seed)
    autocache.patch(model, **PARTS)
    return _loop(model, tiny.build(name)[1])


def _drawn(patch: Any) -> str:
    return "".join(step.action[0] for step in patch.stats().steps)


def _is_plain(model: nn.Module) -> bool:
    return not autocache.is_patched(model) and SLOT not in vars(model)


class Counting:
    """A backend that runs graphs as they are and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, example: Any) -> Any:
        def called(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return called


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_skipped_call_runs_nothing(name: str) -> None:
    """Not one block, hook or embedder of the model runs, and unpatching leaves nothing behind."""
    model, inputs = tiny.build(name)
    before = dict(vars(model))
    with counted(model) as every:
        plain = _loop(model, inputs)
    called = []
    handle = model.register_forward_pre_hook(lambda *_: called.append(1))
    with autocache.patched(model, **PARTS) as patch, counted(model) as counts:
        first = _loop(model, inputs)
        assert len(called) == _drawn(patch).count("c") < len(TIMES)
        share = patch.stats().blocks.share
        assert counts["block"].total() == share * every["block"].total()
        assert torch.equal(_loop(model, inputs), first)
    assert not torch.equal(first, plain)
    handle.remove()
    assert _is_plain(model)
    assert torch.equal(_loop(model, inputs), plain)
    assert vars(model) == before


@pytest.mark.parametrize("first", ["compile", "patch"])
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_compiled_in_place(name: str, first: str) -> None:
    """model.compile() before or after the patch: what was compiled runs, in computed steps only."""
    expected = _fresh(name)
    model, inputs = tiny.build(name)
    backend = Counting()
    if first == "compile":
        model.compile(backend=backend)
    patch = autocache.patch(model, **PARTS)
    if first == "patch":
        model.compile(backend=backend)
    assert torch.equal(_loop(model, inputs), expected)
    assert torch.equal(_loop(model, inputs), expected)
    # Compiled after the patch, the first call finds the slot taken, and goes around it from then.
    assert _drawn(patch)[-len(TIMES) :] == TRACE
    calls = backend.calls
    assert calls > 0
    _loop(model, inputs)
    ran = _drawn(patch)[-len(TIMES) :].count("c")
    with counted(model) as counts:
        _loop(model, inputs)
    assert ran == TRACE.count("c")
    assert counts["block"].total() <= ran * 6
    patch.unpatch()
    assert not autocache.is_patched(model)
    # Still compiled, as before.
    assert not type(vars(model)[SLOT]).__module__.startswith("autocache")
    calls = backend.calls
    assert torch.equal(_loop(model, inputs), _loop(tiny.build(name)[0], inputs))
    assert backend.calls > calls


@pytest.mark.parametrize("name", [FLUX, WAN])
def test_given_to_torch_compile_before(name: str) -> None:
    """What torch.compile returns is patched and skips calls; unpatched, it is plain again."""
    expected = _fresh(name)
    backend = Counting()
    model, inputs = tiny.build(name)
    compiled = torch.compile(model, backend=backend)
    for target in (compiled, compiled):
        patch = autocache.patch(target, **PARTS)
        assert torch.equal(_loop(compiled, inputs), expected)
        assert _drawn(patch) == TRACE
        assert backend.calls > 0
    autocache.unpatch(compiled)
    assert _is_plain(model)
    assert SLOT not in vars(compiled)
    assert torch.equal(_loop(compiled, inputs), _loop(tiny.build(name)[0], inputs))


def test_given_to_torch_compile_after() -> None:
    """From inside a compiled call nothing can be left out, and nobody is told it was."""
    model, inputs = tiny.build(FLUX)
    patch = autocache.patch(model, **PARTS)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(PatchError, match=r"after it was patched.*compile it in place"):
        _loop(compiled, inputs)
    # The model itself goes on working, and so does the compiled one once the patch is off.
    assert torch.equal(_loop(model, inputs), _fresh(FLUX))
    patch.unpatch()
    torch.compiler.reset()
    assert torch.equal(_loop(compiled, inputs), _loop(tiny.build(FLUX)[0], inputs))


def test_a_compiled_denoiser_in_a_pipeline() -> None:
    """Both experts of Wan, compiled, behind one strategy."""
    reference = make("wan")
    autocache.patch(reference, **PARTS)
    expected = run(reference, guided=True)
    pipe = make("wan")
    for part in ("transformer", "transformer_2"):
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    patch = autocache.patch(pipe, **PARTS)
    assert torch.equal(run(pipe, guided=True), expected)
    assert patch.stats().denoiser == autocache.stats(reference).denoiser
    assert patch.stats().denoiser.share < 1


@pytest.mark.parametrize("name", [FLUX, WAN])
def test_a_copied_model_skips_by_itself(name: str) -> None:
    """A deep copy, made in mid-generation, has its own weights, slot and state."""
    model, inputs = tiny.build(name)
    patch = autocache.patch(model, **PARTS)
    _loop(model, inputs, TIMES[:3])
    copied = copy.deepcopy(model)
    assert autocache.is_patched(copied)
    assert vars(copied)[SLOT].session is not vars(model)[SLOT].session
    assert autocache.stats(copied).bytes_held == 0 < patch.stats().bytes_held
    other, _ = tiny.build(name, seed=4)
    copied.load_state_dict(other.state_dict())
    assert torch.equal(_loop(copied, inputs), _fresh(name, seed=4))
    assert autocache.stats(copied).denoiser.share < 1
    whole = _fresh(name)
    assert torch.equal(_loop(model, inputs, TIMES[3:]), whole[3:])
    autocache.unpatch(copied)
    assert _is_plain(copied)
    assert autocache.is_patched(model)
    autocache.unpatch(model)
    assert _is_plain(model)


def test_a_copied_pipeline() -> None:
    """A deep copy of a pipeline hears its own scheduler and skips the same calls."""
    pipe = make("flux")
    autocache.patch(pipe, "easycache", threshold=0.5)
    expected = run(pipe, guided=True)
    copied = copy.deepcopy(pipe)
    autocache.unpatch(pipe)
    assert torch.equal(run(copied, guided=True), expected)
    assert autocache.stats(copied).denoiser.share < 1
    assert _is_plain(pipe.transformer)


@pytest.mark.parametrize("name", [FLUX, WAN])
def test_what_is_saved_is_plain(name: str, tmp_path: Any) -> None:
    """torch.save, pickle and save_pretrained write the model as it was."""
    model, inputs = tiny.build(name)
    plain = _loop(model, inputs)
    autocache.patch(model, **PARTS)
    _loop(model, inputs, TIMES[:3])
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    model.save_pretrained(tmp_path)
    loaded = [
        torch.load(buffer, weights_only=False),
        pickle.loads(pickle.dumps(model)),
        type(model).from_pretrained(tmp_path),
    ]
    for other in loaded:
        assert vars(other).get(SLOT) is None
        assert not autocache.is_patched(other)
        assert torch.equal(_loop(other, inputs), plain)
        with autocache.patched(other, **PARTS):
            assert torch.equal(_loop(other, inputs), _fresh(name))
    assert autocache.is_patched(model)


def test_from_pipe_shares_a_model_that_skips() -> None:
    """A pipeline made of a patched one runs the same model, whose class it accepts."""
    pipe = make("flux")
    patch = autocache.patch(pipe, **PARTS)
    expected = run(pipe)
    again = diffusers.FluxPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert again.transformer is pipe.transformer
    assert torch.equal(run(again), expected)
    assert patch.stats().denoiser.share < 1
    assert patch.stats().generations == 2


@pytest.mark.parametrize("first", ["hooks", "patch"])
def test_offloaded_weights_stay_away_from_skipped_calls(first: str) -> None:
    """accelerate's hooks, put on before or after the patch, page nothing in for a skipped call."""
    expected = _fresh(FLUX)
    model, inputs = tiny.build(FLUX)
    if first == "hooks":
        cpu_offload(model, execution_device=torch.device("cpu"))
    patch = autocache.patch(model, **PARTS)
    if first == "patch":
        cpu_offload(model, execution_device=torch.device("cpu"))
    for _ in range(3):
        assert torch.equal(_loop(model, inputs), expected)
    assert _drawn(patch) == TRACE * 3
    remove_hook_from_submodules(model)
    assert torch.equal(_loop(model, inputs), expected)
    patch.unpatch()
    assert _is_plain(model)
    assert torch.equal(_loop(model, inputs), _loop(tiny.build(FLUX)[0], inputs))


def test_a_call_that_raises_ends_its_generation() -> None:
    """After an error in the model the next call starts afresh, and is acted on again."""
    model, inputs = tiny.build(FLUX)
    patch = autocache.patch(model, **PARTS)
    _loop(model, inputs, TIMES[:2])
    with pytest.raises(RuntimeError), torch.no_grad():
        model(**inputs(0.3) | {"hidden_states": torch.zeros(1, 16, 5)})
    patch.reset()
    assert torch.equal(_loop(model, inputs), _fresh(FLUX))
    assert _drawn(patch) == TRACE


def test_a_patch_over_a_patch_and_one_that_fails() -> None:
    """The slot is never filled twice; a failed patch puts the one before back."""
    model, inputs = tiny.build(FLUX)
    expected = _fresh(FLUX)
    autocache.patch(model, "easycache")
    autocache.patch(model, **PARTS)
    assert vars(model)[SLOT].inner is None
    with pytest.raises(autocache.errors.ParameterError):
        autocache.patch(model, "attention", kinds=["temporal"])
    assert torch.equal(_loop(model, inputs), expected)
    autocache.patch(model, "fbcache")
    assert SLOT not in vars(model)
    autocache.unpatch(model)
    assert _is_plain(model)


def test_disabled_and_enabled_in_mid_generation() -> None:
    """Switched off, every call goes through the slot and runs."""
    model, inputs = tiny.build(FLUX)
    plain = _loop(model, inputs)
    patch = autocache.patch(model, **PARTS, enabled=False)
    assert torch.equal(_loop(model, inputs), plain)
    assert patch.stats().passes == 0
    patch.enabled = True
    assert torch.equal(_loop(model, inputs), _fresh(FLUX))
