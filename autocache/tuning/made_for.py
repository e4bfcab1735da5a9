"""What a profile was made for: model, scheduler, steps, resolution, guidance, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from autocache.runtime.schedulers import scheduler_name
from autocache.spec.facts import Facts, Name, Number
from autocache.targets import config_of, denoisers, uncompiled
from autocache.tuning.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("autocache", "diffusers", "torch")

Fingerprint = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class ModelFacts(Facts):
    """One denoiser."""

    class_: str = Field(
        alias="class", pattern=r"^[\w.]+:[\w.]+$", description="Its class, module:Class."
    )
    config: Fingerprint | None = Field(
        None, description="Fingerprint of what it was built with; none where it does not say."
    )

    @classmethod
    def of(cls, model: nn.Module) -> ModelFacts:
        """Those of a live model."""
        return cls.model_validate({"class": qualified(type(model)), "config": fingerprint(model)})


class SchedulerFacts(Facts):
    """What turns the denoiser's outputs into steps."""

    class_: Name = Field(alias="class", description="Its class.")
    config: Fingerprint | None = Field(None, description="Fingerprint of what it was built with.")
    predicts: Name | None = Field(
        None, description="What it takes the denoiser's output for: flow, epsilon, v_prediction."
    )

    @classmethod
    def of(cls, scheduler: object) -> SchedulerFacts:
        """Those of a live scheduler."""
        kind = type(scheduler).__name__
        config = config_of(scheduler)
        flow = "FlowMatch" in kind or config.get("use_flow_sigmas")
        given = {
            "class": kind,
            "config": fingerprint(scheduler),
            "predicts": "flow" if flow else config.get("prediction_type"),
        }
        return cls.model_validate(given)


class GuidanceFacts(Facts):
    """How the denoiser is called for classifier-free guidance; what is not known is left out."""

    calls: Count | None = Field(None, description="Denoiser calls in a step.")
    parts: Count | None = Field(None, description="Guidance branches in the batch of one call.")
    scale: Number | None = Field(None, description="The pipeline's guidance_scale.")


class MadeFor(Facts):
    """What a profile was made for. What is left out is not known, and not compared."""

    models: list[ModelFacts] = Field([], description="The denoisers it was made on.")
    steps: Count | None = Field(None, description="Steps of the generation.")
    times: list[Number] | None = Field(
        None, description="The timestep of each step, on the scheduler's scale."
    )
    scheduler: SchedulerFacts | None = None
    latents: list[list[Count]] = Field(
        [], description="Shapes of the denoiser's latent input, without the batch."
    )
    guidance: GuidanceFacts | None = None
    versions: dict[Name, Name] = Field({}, description="Of the libraries, by name.")

    @classmethod
    def of(
        cls,
        pipe: Any,
        *,
        steps: int | None = None,
        latents: Sequence[Sequence[int]] = (),
        calls: int | None = None,
        parts: int | None = None,
        scale: float | None = None,
    ) -> MadeFor:
        """What a live pipeline, or bare model, is at present.

        Args:
            pipe: a diffusers pipeline that has just run, or a model.
            steps: of the generation; those its scheduler was last given where it is left out.
            latents: shapes of the denoiser's latent input, without the batch axis.
            calls: denoiser calls in a step, 2 where guidance has a call for each branch.
            parts: guidance branches in the batch of one call, 2 where both are in it.
            scale: of guidance; the pipeline's `guidance_scale` where it is left out and known.
        """
        from autocache.strategy.auto import Auto

        models = [uncompiled(model) for model in denoisers(pipe, None, Auto.create())]
        scheduler = getattr(pipe, scheduler_name(pipe, models[0]), None)
        times = times_of(scheduler)
        if scale is None:
            scale = scale_of([pipe])
        guidance = {"calls": calls, "parts": parts, "scale": scale}
        return cls(
            models=_distinct([ModelFacts.of(model) for model in models]),
            steps=steps or (len(times) if times else None),
            times=times if times and steps in (None, len(times)) else None,
            scheduler=None if scheduler is None else SchedulerFacts.of(scheduler),
            latents=[list(shape) for shape in latents],
            guidance=GuidanceFacts.model_validate(guidance) if any(guidance.values()) else None,
            versions=versions(),
        )


def qualified(cls: type) -> str:
    """module:Class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def times_of(scheduler: Any) -> list[float] | None:
    """The timesteps of the generation that a scheduler was last prepared for; None where it was
    for none. Reading them waits for the device."""
    times = getattr(scheduler, "timesteps", None)
    if times is None or getattr(scheduler, "num_inference_steps", None) is None:
        return None
    begin = getattr(scheduler, "begin_index", None) or 0
    return [float(time) for time in times[begin:]]


def scale_of(pipelines: Sequence[Any]) -> float | None:
    """The guidance scale that pipelines say to run at; None where none says, or not all the same.

    It is what `guidance_scale` was called with, whether or not the model takes it as an input.
    """
    scales = set()
    for pipeline in pipelines:
        with contextlib.suppress(AttributeError):
            scales.add(pipeline.guidance_scale)
    scale = scales.pop() if len(scales) == 1 else None
    return float(scale) if isinstance(scale, (int, float)) else None


def versions() -> dict[str, str]:
    """Of the libraries that a profile may depend on."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _distinct(facts: list[ModelFacts]) -> list[ModelFacts]:
    return [one for nth, one in enumerate(facts) if one not in facts[:nth]]
