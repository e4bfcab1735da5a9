"""Which of a pipeline's schedulers drives which of its denoisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

SCHEDULER = "scheduler"


def has_denoiser(pipeline: Any, model: nn.Module | None) -> bool:
    """Whether a denoiser is still a part of a pipeline, by itself or inside a wrapper."""
    # Asked at every step, and diffusers inspects a signature for its `components`.
    held = getattr(pipeline, "__dict__", {})
    if model is not None and any(part is model for part in held.values()):
        return True
    components = getattr(pipeline, "components", None)
    if not isinstance(components, Mapping):
        return True
    parts = [part for part in components.values() if isinstance(part, nn.Module)]
    if any(getattr(part, "_orig_mod", part) is model for part in parts):
        return True
    return any(inner is model for part in parts for inner in part.modules())


def scheduler_name(pipeline: Any, model: object) -> str:
    """The attribute of a pipeline with the scheduler that drives a denoiser of it.

    A pipeline made of several has one for each, under the part's name: `prior_scheduler` is that of
    the denoiser `prior_prior` or `prior`. Any other denoiser is driven by `scheduler`, or by the
    first of those that integrate a latent each, all at the same steps.
    """
    components = getattr(pipeline, "components", None)
    if not isinstance(components, Mapping):
        return SCHEDULER
    # A component may be what torch.compile made of the model.
    plain = {name: getattr(part, "_orig_mod", part) for name, part in components.items()}
    own = [name for name, component in plain.items() if component is model]
    several = [name for name in components if name.endswith(f"_{SCHEDULER}")]
    for name in several:
        part = name.removesuffix(f"_{SCHEDULER}")
        if any(n == part or n.startswith(f"{part}_") for n in own):
            return name
    return SCHEDULER if SCHEDULER in components or not several else several[0]
