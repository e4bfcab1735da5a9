"""Generations on tiny denoisers that one process and several can run alike."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from pipelines.tiny_pipelines import FEED_FORWARD
from torch import nn

import autocache
import tiny
from devices import DEVICE

STEPS = 10
WAN, FLUX, QWEN = "WanTransformer3DModel", "FluxTransformer2DModel", "QwenImageTransformer2DModel"
LATENT = "hidden_states"

Choice = tuple[str, dict[str, Any]]

TEACACHE: Choice = ("teacache", {"threshold": 0.2, "coefficients": (1.0, 0.0)})
CUSTOM: Choice = ("customcache", {"threshold": 0.08, "coefficients": (1.0, 0.0)})
DBCACHE: Choice = ("dbcache", {"threshold": 0.12, "fn": 1, "bn": 1, "warmup_steps": 2})

READING: dict[str, dict[str, Choice]] = {
    FLUX: {
        "teacache": TEACACHE,
        "customcache": CUSTOM,
        "fbcache": ("fbcache", {"threshold": 0.4}),
        "dbcache": ("dbcache", {**DBCACHE[1], "threshold": 0.4}),
        "dicache": ("dicache", {"threshold": 0.2}),
        "easycache": ("easycache", {"threshold": 0.3, "warmup_steps": 2}),
        "adastep": ("adastep", {"threshold": 0.5}),
        "adacache": ("adacache", {}),
        "auto": ("auto", {"max_error": 0.2}),
    },
    WAN: {
        "teacache": TEACACHE,
        "fbcache": ("fbcache", {"threshold": 0.12}),
        "dbcache": DBCACHE,
        "dicache": ("dicache", {"threshold": 0.2}),
        "seacache": ("seacache", {"threshold": 0.3}),
        "adacache": ("adacache", {}),
        "adacache with motion": ("adacache", {"moreg": True, "moreg_steps": (0, STEPS)}),
    },
    QWEN: {"fbcache": ("fbcache", {"threshold": 0.4})},
}
"""Strategies that read numbers off tensors, set so that each computes some steps and skips some."""

FIXED: dict[str, Choice] = {
    "dit_block": ("dit_block", {}),
    "taylorseer": ("taylorseer", {}),
    "fora": ("fora", {}),
    "pab": ("pab", {}),
    "schedule": ("schedule", {"steps": (0, 1, 3, 6, 9), "total": STEPS}),
}
"""Strategies whose steps are known beforehand."""

COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "irecv",
    "isend",
    "recv",
    "send",
)


def times(name: str) -> list[float]:
    scale = 1.0 if name in (FLUX, QWEN) else 1000.0
    return [(1 - n / STEPS) * scale for n in range(STEPS)]


def latent(inputs: Callable[[float], dict[str, Any]], seed: int) -> torch.Tensor:
    """The noise of a prompt: what it starts from."""
    like = inputs(0.5)[LATENT]
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def generate(name: str, model: nn.Module, inputs: Callable, seed: int = 0) -> torch.Tensor:
    """A generation of `STEPS` steps; the latent follows the model's output."""
    sample = latent(inputs, seed)
    with torch.no_grad():
        for time in times(name):
            given = inputs(time)
            text = given["encoder_hidden_states"]
            given["encoder_hidden_states"] = text + 0.1 * seed
            output = model(**{**given, LATENT: sample})[0]
            width = output.shape[-1] if name == QWEN else sample.shape[-1]
            sample = sample.clone()
            sample[..., :width] += 0.15 * output[..., :width]
    return sample.cpu()


def trace(model: nn.Module) -> str:
    """Step by step, C for a computed one; the last generation."""
    records = autocache.stats(model).steps
    last = records[-1].generation if records else 0
    return "".join("C" if r.action == "computed" else "s" for r in records if r.generation == last)


def patched(name: str, choice: Choice, **options: Any) -> tuple[nn.Module, Callable]:
    model, inputs = tiny.build(name)
    autocache.patch(model, choice[0], **choice[1], **options)
    return model, inputs


def ran(name: str, model: nn.Module, inputs: Callable, seed: int = 0) -> dict[str, Any]:
    """A generation, its decisions, and the blocks that ran, counted inside them."""
    with counted(model) as calls:
        result = generate(name, model, inputs, seed)
    return {
        "result": result,
        "trace": trace(model) if autocache.is_patched(model) else "",
        "blocks": calls["block"],
        "attention": calls["attention"],
    }


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Counter[str]]:
    """Blocks and attention that really ran, counted inside the blocks."""
    counts: Counter[str] = Counter()

    def counts_as(kind: str) -> Callable:
        def hook(*_: Any) -> None:
            counts[kind] += 1

        return hook

    handles = []
    for module in model.modules():
        inside = FEED_FORWARD.get(type(module).__name__.removeprefix("FSDP"))
        if inside is not None:
            attention = getattr(module, "attn1", None) or module.attn
            for place, kind in (
                (module.get_submodule(inside), "block"),
                (attention.to_q, "attention"),
            ):
                handles.append(place.register_forward_hook(counts_as(kind)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def alone(name: str, choice: Choice | None, seed: int = 0) -> dict[str, Any]:
    """What one process by itself does."""
    model, inputs = tiny.build(name) if choice is None else patched(name, choice)
    return ran(name, model, inputs, seed)


class Silence(ExitStack):
    """Counts calls of `torch.distributed`'s functions. What diffusers' context parallelism sends is
    not among them, as it goes through functional collectives; FSDP gathers weights into tensors.
    With `forbidden` each call raises."""

    def __init__(self, forbidden: bool = False) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.forbidden = forbidden

    def __enter__(self) -> Silence:
        for name in (name for name in COLLECTIVES if hasattr(dist, name)):
            self.enter_context(mock.patch.object(dist, name, self._counting(getattr(dist, name))))
        return self

    @property
    def weights(self) -> int:
        """How often weights were gathered."""
        return self.calls["all_gather_into_tensor"] + self.calls["all_gather_single"]

    @property
    def exchanges(self) -> int:
        """Everything else."""
        return self.calls.total() - self.weights

    def _counting(self, function: Callable) -> Callable:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[function.__name__] += 1
            if self.forbidden:
                raise AssertionError(f"{function.__name__} was called")
            return function(*args, **kwargs)

        return counting
