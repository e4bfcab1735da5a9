"""The guidance style of a pipeline, as its calls of the denoiser show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from autocache.authoring.checks.trace import Call
from autocache.spec.proof import Loop
from autocache.spec.schema import Guidance, Spec

ONE_CALL = ("none", "embedded", "batched", "batched_conditional_first", "batched_many")
COPIES = {
    "none": (1,),
    "embedded": (1,),
    "batched": (2,),
    "batched_conditional_first": (2,),
    "batched_many": (3, 4, 5, 6),
}
"""How often the latents are in the batch of a call."""

SHARED = 0.2
"""Share of equal elements from which on two latents are copies. Conditions in further channels may
differ; of random numbers none are equal."""


def style(
    spec: Spec, pipeline: str, loop: Loop, steps: Sequence[Sequence[Call]], call: Mapping[str, Any]
) -> Iterator[str]:
    """Whether what a full step does is what the spec declares for the pipeline."""
    declared: Guidance | None = spec.guidance.get(pipeline)
    if declared is None:
        yield f"guidance does not say how {pipeline} does it"
        return
    if declared.branches is not None and declared.branches != loop.branches:
        yield f"guidance declares branches {declared.branches}, the proof {loop.branches}"
    full = max(steps, key=len)
    yield from _style(spec, declared, full)
    if declared.style in ("batched", "batched_conditional_first"):
        yield from _order(declared.style, full[0], call)


def _style(spec: Spec, guidance: Guidance, full: Sequence[Call]) -> Iterator[str]:
    declared, calls = guidance.style, len(guidance.branches or [""])
    models = len({call.number for call in full})
    copies = _copies(_latent(spec, full[0]))
    seen = f"a full step makes {len(full)} call(s)"
    if declared == "sequential" and len(full) < 2:
        yield f"guidance is declared sequential, but {seen}; does the call turn guidance on?"
    elif declared == "separate" and models < 2:
        yield f"guidance is declared separate, but {seen} of one model"
    elif declared in ONE_CALL and len(full) > calls:
        yield f"guidance is declared {declared}, but {seen}"
    elif declared in ONE_CALL and copies is not None and copies not in COPIES[declared]:
        expected = " or ".join(map(str, COPIES[declared]))
        yield (
            f"guidance is declared {declared}, but the latents are {copies} time(s) in the batch "
            f"of a call, expected {expected}"
        )


def _order(declared: str, first: Call, call: Mapping[str, Any]) -> Iterator[str]:
    """Which half is the conditional one, told by embeddings given with and without `negative_`."""
    halves = [
        list(tensor.chunk(2))
        for tensor in first.given.values()
        if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[0] % 2 == 0
    ]
    for positive, negative in _pairs(call):
        for one, other in halves:
            conditional_first = _same(one, positive) and _same(other, negative)
            conditional_last = _same(one, negative) and _same(other, positive)
            if declared == "batched" and conditional_first:
                yield "guidance is declared batched, but the conditional half comes first"
            elif declared == "batched_conditional_first" and conditional_last:
                yield f"guidance is declared {declared}, but the conditional half comes last"


def _pairs(call: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What a call gives in a positive and a negative form, where the two differ."""
    for name, negative in call.items():
        positive = call.get(name.removeprefix("negative_"))
        if not isinstance(positive, torch.Tensor) or not isinstance(negative, torch.Tensor):
            continue
        if name.startswith("negative_") and not _same(positive, negative):
            yield positive, negative


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.dtype), other)


def _latent(spec: Spec, call: Call) -> Any:
    names = spec.latent_names
    return next((call.given[name] for name in names if name in call.given), None)


def _copies(latent: Any) -> int | None:
    """How many copies of the same latents a batch holds; None where it cannot be told."""
    if isinstance(latent, list | tuple):
        tensors = [item for item in latent if isinstance(item, torch.Tensor)]
        shapes = {tensor.shape for tensor in tensors}
        latent = torch.stack(tensors) if tensors and len(shapes) == 1 else None
    if not isinstance(latent, torch.Tensor) or not latent.ndim:
        return None
    size = latent.shape[0]
    for copies in range(size, 1, -1):
        if size % copies == 0:
            first, *others = latent.chunk(copies)
            if all(float((first == other).float().mean()) >= SHARED for other in others):
                return copies
    return 1
