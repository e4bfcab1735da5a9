"""The tiny model of a spec's `proof`, inputs for it, and tiny pipelines around it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from autocache.authoring.notation import constructed, imported, tensor, value
from autocache.errors import SpecError, nearest
from autocache.spec.bind import signature
from autocache.spec.loader import line_of
from autocache.spec.proof import Loop, Proof
from autocache.spec.schema import Spec

__all__ = [
    "call_of",
    "class_of",
    "inputs_of",
    "loop_of",
    "model_of",
    "pipeline_of",
    "proof_of",
    "run_loop",
    "tensor",
    "value",
]

STEPS = 4
"""Denoising steps of a tiny pipeline's generation when its `call` does not say."""

DENOISER = "denoiser"

MOST_PARAMETERS = 30_000_000
"""What is still a tiny model. A forgotten `num_layers` gives one of billions."""


def proof_of(spec: Spec) -> Proof:
    """The proof of a spec. Raises SpecError, with how to add one, where there is none."""
    if spec.proof is None:
        raise SpecError(
            f"{line_of(spec)}: the spec has no proof; add one as its last key:\n"
            "proof:\n"
            "  package: diffusers 0.42.1\n"
            "  signatures: {Block: [hidden_states]}  # argument names of each block's forward\n"
            "  config: {num_layers: 3}  # constructor arguments of a tiny instance\n"
            "  inputs: {hidden_states: {shape: [1, 16, 4]}, timestep: {shape: [1], value: 0.9}}"
        )
    return spec.proof


def class_of(spec: Spec) -> type[nn.Module]:
    """The class a spec describes. Raises SpecError when it cannot be imported."""
    with _located(spec, "model"):
        return imported(spec.model, key="model")


def model_of(spec: Spec, seed: int = 0, **overrides: Any) -> nn.Module:
    """The tiny model of a spec's proof, deterministic, in evaluation mode and frozen.

    `overrides` replace items of its `config`. Parameters that would be zero or not initialised are
    drawn, since zero gates would hide every mistake. Raises SpecError when it cannot be built.
    """
    with _located(spec, "proof", "config"):
        return _built(spec, seed, overrides)


def inputs_of(spec: Spec, step: int = 0, seed: int = 0) -> dict[str, Any]:
    """The keyword arguments of one call of the tiny model; equal arguments give equal values.

    From step to step only the timestep (times 1 - 0.1 step, or so much nearer to 1 where the spec
    has it rise) and the latent (times 1 + 0.05 step, tokens of a vocabulary shifted by one) change.
    Where forward has `return_dict` it is False.
    Raises SpecError that names the key.
    """
    with _located(spec, "proof", "inputs"):
        given: dict[str, Any] = value(proof_of(spec).inputs, key="inputs", seed=seed)
    names = signature(class_of(spec)).names
    if spec.timestep is not None and given.get(spec.timestep) is not None:
        later = _nearer if spec.timestep_scale < 0 else _later
        given[spec.timestep] = _mapped(given[spec.timestep], lambda v: later(v, step))
    known = spec.latent_names
    latent = next((name for name in known if name in given), None)
    if latent is not None:
        given[latent] = _mapped(given[latent], lambda v: _grown(v, step))
    if "return_dict" in names:
        given.setdefault("return_dict", False)
    return given


def pipeline_of(spec: Spec, label: str) -> Any:
    """The tiny pipeline of that label in a spec's proof; the same weights on every call.

    Raises SpecError when there is none, or it cannot be built.
    """
    loop = loop_of(spec, label)
    at = ("proof", "pipelines", label)
    with _located(spec, *at):
        cls = _in_diffusers(loop.pipeline or label)
        build = _components(spec)
        given = {
            name: _denoiser(spec, item, {})
            if isinstance(item, str) and item.partition(" ")[0] == DENOISER
            else value(item, key=f"components.{name}", build=build)
            for name, item in loop.components.items()
        }
        required = [
            name
            for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        given = {**dict.fromkeys(required), **given}
        pipe = constructed(cls, given, seed=0, key="components")
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    return pipe


def run_loop(spec: Spec, label: str, pipe: Any, *, seed: int = 0, **options: Any) -> Any:
    """One generation with a tiny pipeline; equal arguments give equal noise and conditioning.

    `options` replace arguments of its `call`. Where the pipeline takes them and nothing else is
    said, there are 4 steps, latents come out, and they come in a tuple.
    """
    given = call_of(spec, label, seed=seed) | options
    taken = inspect.signature(type(pipe).__call__).parameters
    usual: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
        "return_dict": False,
    }
    usual = {name: item for name, item in usual.items() if name in taken}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return pipe(**{**usual, **given})


def call_of(spec: Spec, label: str, *, seed: int = 0) -> dict[str, Any]:
    """The arguments of a tiny pipeline's generation that its description gives."""
    call = loop_of(spec, label).call
    with _located(spec, "proof", "pipelines", label, "call"):
        return value(call, key="call", seed=seed, build=_components(spec))


def loop_of(spec: Spec, label: str) -> Loop:
    """The tiny pipeline's description. Raises SpecError when the proof has none of that label."""
    loops = proof_of(spec).pipelines
    if label not in loops:
        at = line_of(spec, "proof", "pipelines")
        raise SpecError(f"{at}: no pipeline is called {label!r}{nearest(label, loops)}")
    return loops[label]


def _built(spec: Spec, seed: int, overrides: dict[str, Any]) -> nn.Module:
    config = {**proof_of(spec).config, **overrides}
    given = value(config, key="config", seed=seed, config=True)
    _refuse_large(class_of(spec), given)
    return constructed(class_of(spec), given, seed=seed, key="config")


def _refuse_large(cls: type[nn.Module], config: dict[str, Any]) -> None:
    """Raises SpecError before the memory for a model of real size is taken."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            sketch = cls(**config)
    except Exception:
        # Not every constructor works without values; those that do not are not measured.
        return
    count = sum(parameter.numel() for parameter in sketch.parameters())
    if count > MOST_PARAMETERS:
        raise SpecError(
            f"config: a {cls.__name__} of {count:,} parameters is not tiny; give it fewer layers "
            f"and smaller sizes, below {MOST_PARAMETERS:,} in all"
        )


def _denoiser(spec: Spec, name: str, overrides: dict[str, Any]) -> nn.Module:
    """`denoiser` is the tiny model, `denoiser 2` another with other weights."""
    _, _, number = name.partition(" ")
    if number and not number.isdecimal():
        raise SpecError(f"components: expected 'denoiser' or 'denoiser 2', not {name!r}")
    return _built(spec, int(number or 1) - 1, overrides)


def _components(spec: Spec) -> Callable[[str, dict[str, Any]], Any]:
    def build(name: str, config: dict[str, Any]) -> Any:
        if name.partition(" ")[0] == DENOISER:
            return _denoiser(spec, name, config)
        return constructed(_in_diffusers(name), config, seed=5, key="class")

    return build


def _in_diffusers(name: str) -> Any:
    if ":" in name:
        return imported(name)
    import diffusers

    if not hasattr(diffusers, name):
        raise SpecError(f"class: diffusers has no {name!r}{nearest(name, dir(diffusers))}")
    return getattr(diffusers, name)


def _mapped(item: Any, change: Callable[[Any], Any]) -> Any:
    """Tensors and numbers changed, wherever they are."""
    if isinstance(item, list | tuple):
        return type(item)(_mapped(part, change) for part in item)
    if isinstance(item, dict):
        return {key: _mapped(part, change) for key, part in item.items()}
    return change(item)


def _later(time: Any, step: int) -> Any:
    """A timestep so many steps on: of distinct value, always in the same direction."""
    moment: torch.Tensor = time if isinstance(time, torch.Tensor) else torch.tensor(time)
    whole, highest = not moment.is_floating_point(), float(moment.max())
    if whole and highest < 10:
        # Too few integers to scale: count down, or up where there is no room below.
        moved = moment - step if highest >= 5 else moment + step
    elif highest == 0:
        moved = moment + 0.1 * step
    else:
        scaled = moment * (1 - 0.1 * step)
        moved = scaled.round().to(moment.dtype) if whole else scaled
    return moved if isinstance(time, torch.Tensor) else moved.item()


def _nearer(time: Any, step: int) -> Any:
    """A timestep between 0 and 1 so many steps on, where it rises."""
    return time + 0.1 * step * (1 - time)


def _grown(latent: Any, step: int) -> Any:
    if not isinstance(latent, torch.Tensor):
        return latent
    # Of tokens of a vocabulary all values stay in it, at other places.
    return latent * (1 + 0.05 * step) if latent.is_floating_point() else latent.roll(step, -1)


@contextlib.contextmanager
def _located(spec: Spec, *location: str) -> Iterator[None]:
    """Errors within say where in the spec the description is."""
    try:
        yield
    except SpecError as error:
        at = line_of(spec, *location)
        # Whoever is inside another such block has said where already.
        message = str(error)
        place = at.rpartition(":")[0].rpartition(":")[0]
        if place and message.startswith(place):
            raise
        raise SpecError(f"{at}: {message}") from error.__cause__
