"""Nothing of a patch keeps a pipeline alive, and nothing of it outlives the pipeline."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from company import eager
from pipelines.tiny_pipelines import denoisers, make, run
from torch import nn

import autocache
import tiny
from autocache.runtime.root import session_of

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"
UNET = "UNet2DConditionModel"
WRAPPABLE = (
    diffusers.FlowMatchEulerDiscreteScheduler,
    diffusers.DDIMScheduler,
    diffusers.FluxPipeline,
    diffusers.StableDiffusionPipeline,
    diffusers.FluxTransformer2DModel,
    diffusers.UNet2DConditionModel,
    *diffusers.FluxTransformer2DModel.__mro__,
    *diffusers.FluxPipeline.__mro__,
)
STEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> Iterator[None]:
    """What others left is not looked through again and again."""
    for name in (FLUX, WAN, UNET):
        tiny.build(name)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def methods() -> list[dict[str, Any]]:
    """What a patch may wrap."""
    found = (vars(cls).items() for cls in dict.fromkeys(WRAPPABLE))
    return [{name: member for name, member in items if callable(member)} for items in found]


@contextlib.contextmanager
def only_counting() -> Iterator[None]:
    """Nothing is freed but what nobody refers to: the garbage collector rests."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tensors() -> int:
    """Tensors that are alive."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def parts(pipe: Any) -> dict[str, weakref.ref]:
    """The parts of a pipeline that can be seen to go."""
    models = {str(n): model for n, model in enumerate(denoisers(pipe))}
    blocks = {f"{n}.block": [*model.children()][-1] for n, model in models.items()}
    whole = {"pipeline": pipe, "scheduler": pipe.scheduler, **models, **blocks}
    return {name: weakref.ref(part) for name, part in whole.items()}


def alive(refs: dict[str, weakref.ref]) -> set[str]:
    return {name for name, ref in refs.items() if ref() is not None}


def loop(model: nn.Module, inputs: Any, times: tuple[float, ...] = STEPS[:4]) -> None:
    scale = 1.0 if isinstance(model, diffusers.FluxTransformer2DModel) else 1000.0
    with torch.no_grad():
        for time in times:
            model(**inputs(time * scale))


def applies(strategy: str) -> str:
    """A pipeline that the strategy applies to, of the kind that goes by itself where there is one:
    diffusers' hooks leave a transformer that named its guidance branches to the collector."""
    return next(name for name in ("sd", "flux", "wan") if (strategy, name) not in eager.REFUSED)


@pytest.mark.usefixtures("nothing_patched")
@pytest.mark.parametrize("strategy", eager.NAMES)
def test_a_pipeline_goes_as_soon_as_it_would_unpatched(strategy: str) -> None:
    """Without the garbage collector, after a generation; with it to the last trace."""
    before = methods()
    survivors = []
    for patched in (False, True):
        with only_counting():
            pipe = make(applies(strategy))
            refs = parts(pipe)
            if patched:
                refs["patch"] = weakref.ref(eager.patch(pipe, strategy))
                refs["session"] = weakref.ref(session_of(denoisers(pipe)[0]))
            run(pipe, steps=eager.STEPS)
            del pipe
            survivors.append(alive(refs) - {"patch", "session"})
            gc.collect()
            assert alive(refs) == set()
    assert survivors[0] == survivors[1]
    assert "pipeline" not in survivors[1]
    assert methods() == before


@pytest.mark.usefixtures("nothing_patched")
# fewer_steps wants a pipeline, and keeps no tensors.
@pytest.mark.parametrize("strategy", [name for name in eager.NAMES if name != "fewer_steps"])
def test_what_is_cached_goes_with_the_model(strategy: str) -> None:
    """In the middle of a generation, without the garbage collector, and although the Patch is held:
    that keeps the totals and the records, and no model and no tensor."""
    name = {"sd": UNET, "flux": FLUX, "wan": WAN}[applies(strategy)]
    before = methods()
    model, inputs = tiny.build(name)
    loop(model, inputs)
    del model
    gc.collect()
    at_first = tensors()
    with only_counting():
        model = tiny.build(name)[0]
        patch = eager.patch(model, strategy)
        loop(model, inputs)
        # On a UNet nothing stays the same from step to step for long enough.
        assert patch.stats().bytes_held > 0 or strategy == "invariant"
        gone = weakref.ref(model)
        del model
        assert gone() is None
        assert patch.stats().bytes_held == 0
        assert tensors() == at_first
    assert methods() == before
    assert (patch.stats().passes, patch.denoisers) == (4, [])
    assert strategy in repr(patch)
    patch.enabled = False
    patch.reset()
    assert patch.stats().passes == 0
    patch.unpatch()


@pytest.mark.usefixtures("nothing_patched")
@pytest.mark.parametrize("strategy", ["auto", "fora", "dit_block"])
def test_a_patch_that_was_taken_off_keeps_nothing_alive(strategy: str) -> None:
    """Neither one that was replaced by another, nor one whose installing failed."""
    with only_counting():
        model, inputs = tiny.build(FLUX)
        first = autocache.patch(model, strategy)
        loop(model, inputs)
        second = autocache.patch(model, "attention")
        loop(model, inputs)
        # What pytest.raises keeps of an error would keep the model.
        with contextlib.suppress(autocache.errors.ParameterError):
            autocache.patch(model, "dit_block", block_end=99)
        second.unpatch()
        gone = weakref.ref(model)
        del model
        assert gone() is None
    assert first.denoisers == second.denoisers == []


@pytest.mark.usefixtures("nothing_patched")
def test_a_cycle_around_it_goes_in_one_collection() -> None:
    """A pipeline that somebody made a cycle of, collected in mid-generation by another thread."""
    before = methods()
    pipe = make("sd")
    pipe.myself = pipe
    refs = parts(pipe)
    patch = autocache.patch(pipe, "fora")
    run(pipe, steps=4)
    loop(pipe.unet, tiny.build(UNET)[1])
    assert patch.stats().bytes_held > 0
    del pipe
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join(60)
    assert alive(refs) == set()
    assert patch.stats().bytes_held == 0
    assert methods() == before


@pytest.mark.usefixtures("nothing_patched")
def test_one_that_goes_leaves_the_others_patched() -> None:
    """What is wrapped for all of them stays until the last."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler
    plain = vars(euler)["step"]
    kept, other = make("flux"), make("flux")
    patch = autocache.patch(kept, "fora")
    autocache.patch(other, "fora")
    expected = run(kept)
    del other
    gc.collect()
    assert vars(euler)["step"] is not plain
    assert torch.equal(run(kept), expected)
    assert [step.step for step in patch.stats().steps][-8:] == list(range(8))
    del kept, patch
    gc.collect()
    assert vars(euler)["step"] is plain


def test_a_block_that_outlives_its_model() -> None:
    """It computes, copies and saves as a plain one, and another model can be patched with it."""
    model, inputs = tiny.build(FLUX)
    plain, other = tiny.build(FLUX)[0], tiny.build(FLUX)[0]
    autocache.patch(model, "dit_block", step_start=0, step_interval=2)
    loop(model, inputs)
    block, like = (m.get_submodule("transformer_blocks.1") for m in (model, other))
    del model
    gc.collect()
    plain.set_submodule("transformer_blocks.1", block)
    with torch.no_grad():
        assert torch.equal(plain(**inputs(0.5))[0], other(**inputs(0.5))[0])
    assert type(copy.deepcopy(block)) is type(like)
    autocache.patch(plain, "dit_block", step_start=0, step_interval=2)
    autocache.patch(other, "dit_block", step_start=0, step_interval=2)
    with torch.no_grad():
        for time in STEPS:
            assert torch.equal(plain(**inputs(time))[0], other(**inputs(time))[0])
    autocache.unpatch(plain)
    autocache.unpatch(other)
    assert type(block) is type(like)
