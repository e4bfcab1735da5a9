"""The class imports, the tiny model builds and runs, and every fact binds to it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from autocache.authoring.checks.subject import Subject, difference, leaves
from autocache.authoring.instance import inputs_of


def builds(subject: Subject) -> Iterator[str]:
    """The tiny model runs, its output is finite and moves with the inputs, and the spec binds."""
    assert subject.bound
    first, second, *_ = subject.plain
    tensors = [leaf for leaf in leaves(first) if isinstance(leaf, torch.Tensor)]
    if not tensors:
        yield f"one call returns no tensor but a {type(first).__name__}"
    for nth, tensor in enumerate(tensors):
        if not tensor.isfinite().all():
            yield f"tensor {nth} of the output is not finite; choose other proof.inputs"
    if difference(second, first) is None:
        yield (
            "two steps have the same output, so nothing can be proven with these proof.inputs; "
            "do timestep: and latent: name what moves from step to step?"
        )
    yield from _layout(subject)


def _layout(subject: Subject) -> Iterator[str]:
    layout, given = subject.spec.latent_layout, inputs_of(subject.spec)
    names = subject.spec.latent_names
    latent = next((given[name] for name in names if name in given), None)
    if layout is None or not isinstance(latent, torch.Tensor):
        return
    if latent.ndim != (3 if layout == "tokens" else len(layout)):
        yield f"latent_layout is {layout}, but the latent has {latent.ndim} dimensions"
