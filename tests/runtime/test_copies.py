"""Copies, files, hooks of others, and threads."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from pipelines.tiny_pipelines import counted, make, run
from torch import nn

import autocache
import tiny

TIMES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
STRATEGIES = ("teacache", "dit_block", "attention")
FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"


def _loop(model: nn.Module, inputs: Any, times: list[float] = TIMES) -> torch.Tensor:
    scale = 1.0 if hasattr(model, "single_transformer_blocks") else 1000.0
    with torch.no_grad():
        return torch.stack([model(**inputs(time * scale))[0] for time in times])


def _fresh(name: str, strategy: str, seed: int = 0) -> torch.Tensor:
    model, _ = tiny.build(name, seed=seed)
    autocache.patch(model, tiny.choice(strategy))
    return _loop(model, tiny.build(name)[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_a_copied_model_has_its_own_weights_and_state(name: str, strategy: str) -> None:
    """A deep copy, made in mid-generation, is patched by itself and shares nothing."""
    model, inputs = tiny.build(name)
    patch = autocache.patch(model, tiny.choice(strategy))
    _loop(model, inputs, TIMES[:3])
    copied = copy.deepcopy(model)
    assert type(copied) is type(model)
    assert autocache.is_patched(copied)
    assert autocache.stats(copied).passes == 0
    assert autocache.stats(copied).bytes_held == 0 < patch.stats().bytes_held
    other, _ = tiny.build(name, seed=4)
    copied.load_state_dict(other.state_dict())
    assert torch.equal(_loop(copied, inputs), _fresh(name, strategy, seed=4))
    assert autocache.stats(copied).attention.share < 1
    assert autocache.stats(model).passes == 3
    # The original goes on where it was.
    whole = _fresh(name, strategy)
    assert torch.equal(_loop(model, inputs, TIMES[3:]), whole[3:])
    autocache.unpatch(copied)
    assert autocache.is_patched(model)
    assert not any("autocache" in key for m in copied.modules() for key in vars(m))
    autocache.unpatch(model)
    assert not autocache.is_patched(model)


def test_the_original_unpatched_leaves_the_copy_patched() -> None:
    """Unpatching a model does nothing to its copies."""
    model, inputs = tiny.build(FLUX)
    autocache.patch(model, "dit_block")
    copied = copy.deepcopy(model)
    autocache.unpatch(model)
    assert autocache.is_patched(copied)
    assert torch.equal(_loop(copied, inputs), _fresh(FLUX, "dit_block"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_copied_block_is_plain(strategy: str) -> None:
    """A block copied without its model is an ordinary module."""
    model, _ = tiny.build(FLUX)
    plain_class = type(model.transformer_blocks[0])
    plain_keys = sorted(vars(model.transformer_blocks[0]))
    autocache.patch(model, tiny.choice(strategy))
    block = model.transformer_blocks[0]
    copied = copy.deepcopy(block)
    assert type(copied) is plain_class
    assert type(copied.attn).__mro__ == type(copy.deepcopy(block.attn)).__mro__
    assert sorted(vars(copied)) == plain_keys
    assert isinstance(block, plain_class)
    for (key, ours), (other, theirs) in zip(
        copied.state_dict().items(), block.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


def test_class_names_and_isinstance() -> None:
    """Whoever asks a patched module what it is gets the answer of before."""
    model, _ = tiny.build(FLUX)
    before = {n: type(m) for n, m in model.named_modules()}
    autocache.patch(model, "dit_block", block_start=0, block_end=6)
    for name, module in model.named_modules():
        cls, original = type(module), before[name]
        assert isinstance(module, original)
        identity = (cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__)
        assert identity == (
            original.__name__,
            original.__qualname__,
            original.__module__,
            original.__doc__,
        )
    assert repr(model) == repr(tiny.build(FLUX)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_copied_pipeline(name: str, strategy: str) -> None:
    """A deep copy of a patched pipeline hears its own scheduler and skips the same."""
    pipe = make(name)
    autocache.patch(pipe, tiny.choice(strategy))
    expected = run(pipe)
    copied = copy.deepcopy(pipe)
    assert copied.transformer is not pipe.transformer
    assert torch.equal(run(copied), expected)
    assert autocache.stats(copied).generations == autocache.stats(pipe).generations == 1
    assert autocache.stats(copied).blocks == autocache.stats(pipe).blocks
    assert [s.step for s in autocache.stats(copied).steps] == list(range(8))
    autocache.unpatch(pipe)
    assert torch.equal(run(copied), expected)
    assert autocache.stats(copied).generations == 2


LOAD = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "autocache":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
torch.set_num_threads(1)
model, inputs, expected = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    assert torch.equal(model(**inputs)[0], expected)
    assert torch.equal(model(**inputs)[0], expected)
assert not [name for name in sys.modules if name.startswith("autocache")]
print("loaded", type(model).__name__)
"""


@pytest.mark.parametrize("strategy", ["teacache", "attention"])
def test_a_saved_model_needs_no_autocache(strategy: str, tmp_path: Path) -> None:
    """torch.save of a patched model loads, plain, where autocache cannot be imported."""
    model, inputs = tiny.build(FLUX)
    with torch.no_grad():
        expected = model(**inputs(0.5))[0]
    autocache.patch(model, tiny.choice(strategy))
    _loop(model, inputs, TIMES[:2])
    file = tmp_path / "model.pt"
    torch.save((model, inputs(0.5), expected), file)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded FluxTransformer2DModel"


@pytest.mark.parametrize(("name", "strategy"), tiny.pairs((*STRATEGIES, "deepcache")))
def test_pickled_models_are_plain(name: str, strategy: str, tmp_path: Path) -> None:
    """What torch.save and pickle write is the model as it was before the patch."""
    model, inputs = tiny.build(name)
    classes = [type(m) for m in model.modules()]
    given = inputs(5)
    with torch.no_grad():
        plain = model(**given)[0]
    autocache.patch(model, tiny.choice(strategy))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (loaded, pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in other.modules()] == classes
        assert not autocache.is_patched(other)
        assert list(other.state_dict()) == list(model.state_dict())
        with torch.no_grad():
            assert torch.equal(other(**given)[0], plain)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert not autocache.is_patched(again)
    with torch.no_grad():
        assert torch.equal(again(**given)[0], plain)
    assert autocache.is_patched(model)
    with autocache.patch(loaded, tiny.choice(strategy)) as patch, torch.no_grad():
        loaded(**given)
        assert patch.stats().passes == 1


def _on_blocks(model: nn.Module) -> None:
    """A hook of accelerate's on every block and its attention, which replaces their forward."""
    for name, module in list(model.named_modules()):
        if name.endswith("attn") or name.rpartition(".")[0].endswith("blocks"):
            add_hook_to_module(module, AlignDevicesHook("cpu", io_same_device=True))


def _offloaded(model: nn.Module) -> None:
    cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("hooked", [_on_blocks, _offloaded], ids=["blocks", "offload"])
@pytest.mark.parametrize("first", ["hooks", "patch"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hooks_of_accelerate(strategy: str, first: str, hooked: Any) -> None:
    """Installed before or after the patch, in three generations hooks change nothing."""
    expected = _fresh(FLUX, strategy)
    model, inputs = tiny.build(FLUX)
    if first == "hooks":
        hooked(model)
    patch = autocache.patch(model, tiny.choice(strategy))
    if first == "patch":
        hooked(model)
    for generation in range(3):
        before = patch.stats()
        with counted(model) as counts:
            assert torch.equal(_loop(model, inputs), expected), generation
        assert patch.stats().attention.run - before.attention.run == counts["attention"].total()
        assert counts["attention"].total() < 6 * len(TIMES)
    remove_hook_from_submodules(model)
    assert torch.equal(_loop(model, inputs), expected)
    patch.unpatch()
    plain, _ = tiny.build(FLUX)
    assert torch.equal(_loop(model, inputs), _loop(plain, inputs))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [FLUX, WAN])
def test_threads_do_not_meet(name: str, strategy: str) -> None:
    """Two threads in one patched model, taking turns at every call, each get the serial result."""
    model, inputs = tiny.build(name)
    schedules = [TIMES, [0.95, 0.7, 0.45, 0.2, 0.1, 0.05]]
    serial = []
    for times in schedules:
        with autocache.patch(model, tiny.choice(strategy)):
            serial.append(_loop(model, inputs, times))
    patch = autocache.patch(model, tiny.choice(strategy))
    turns, results = threading.Barrier(2, timeout=60), [None, None]

    def work(number: int) -> None:
        outputs = []
        for time in schedules[number] * 2:
            turns.wait()
            outputs.append(_loop(model, inputs, [time])[0])
        results[number] = torch.stack(outputs)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for alone, result in zip(serial, results, strict=True):
        assert torch.equal(result, torch.cat([alone, alone]))
    assert patch.stats().passes == 4 * len(TIMES)
    assert patch.stats().attention.share < 1


def test_a_thread_that_ends_holds_nothing() -> None:
    """What a thread kept is given back when it ends, so that a memory limit lasts."""
    model, inputs = tiny.build(FLUX)
    with autocache.patch(model, "dit_block") as patch:
        _loop(model, inputs)
        peak = patch.stats().bytes_peak
    patch = autocache.patch(model, "dit_block", memory_limit=peak)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            _loop(model, inputs)
        except BaseException as error:
            failed.append(error)

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert failed == []
    assert patch.stats().bytes_held == 0
