"""The denoisers of `gpu_models.yaml`, made on the device with random weights."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import yaml
from torch import nn

from loops import Loop

LISTING = Path(__file__).with_suffix(".yaml")
SPREAD = 0.02
"""Standard deviation of the weights: what goes through many layers stays finite in 16 bits."""


@dataclass(frozen=True)
class Model:
    """A denoiser, its inputs, and the generation that is measured on it."""

    name: str
    title: str
    cls: str
    config: dict[str, Any]
    pipeline: str
    scheduler: dict[str, Any]
    steps: int
    inputs: dict[str, Any]
    parameters: float = 0.0
    """As published."""
    source: str = ""
    time_scale: float = 1.0
    batched: bool = False
    """Guidance in the two halves of a batch."""
    branches: tuple[str, ...] = ("cond",)
    sub_modules: tuple[str, ...] = ()
    """Patterns for the paths of attention and feed-forward modules, which peers do not know of."""
    only: tuple[str, ...] | None = None
    """The contestants that there is time for; None for all that apply."""
    compiled: tuple[str, ...] = field(default=())
    """Those that are measured with compiled blocks too."""

    @property
    def is_unet(self) -> bool:
        """Whether it has levels rather than a stack of blocks."""
        return self.cls.startswith("UNet")

    def empty(self) -> nn.Module:
        """The denoiser without memory for its weights."""
        with torch.device("meta"):
            return getattr(diffusers, self.cls)(**self.config).eval().requires_grad_(False)

    def build(self, device: torch.device, dtype: torch.dtype) -> Loop:
        """The denoiser with random weights, the same each time, and its loop."""
        model = _as_loaded(self.empty(), dtype)
        if device.type != "meta":
            model = model.to_empty(device=device)
            _fill(model, device)
        scheduler = self._scheduler()
        generator = torch.Generator("cpu").manual_seed(0)
        return Loop(
            model=model,
            scheduler=scheduler,
            pipeline=self._pipeline(model, scheduler),
            latent=torch.randn(self.inputs["latent"], generator=generator).to(device, dtype),
            branches={name: self._arguments(device, dtype, generator) for name in self.branches},
            time_by_itself=self.is_unet,
            time_scale=self.time_scale,
            batched=self.batched,
        )

    def _scheduler(self) -> Any:
        given = dict(self.scheduler)
        return getattr(diffusers, given.pop("class"))(**given)

    def _pipeline(self, model: nn.Module, scheduler: Any) -> Any:
        """A pipeline without encoders and decoder."""
        cls = getattr(diffusers, self.pipeline)
        wanted = inspect.signature(cls.__init__).parameters.values()
        empty = inspect.Parameter.empty
        parts = {one.name: None for one in wanted if one.default is empty and one.name != "self"}
        own = {"unet" if self.is_unet else "transformer": model, "scheduler": scheduler}
        return cls(**{**parts, **own})

    def _arguments(
        self, device: torch.device, dtype: torch.dtype, generator: torch.Generator
    ) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, shape in self.inputs.get("random", {}).items():
            made[name] = torch.randn(shape, generator=generator)
        for name, one in self.inputs.get("filled", {}).items():
            made[name] = torch.full(one["shape"], float(one["value"]))
        for name, (rows, columns) in self.inputs.get("positions", {}).items():
            axes = torch.arange(1), torch.arange(rows), torch.arange(columns)
            made[name] = torch.cartesian_prod(*axes)
        arguments: dict[str, Any] = {}
        for name, tensor in made.items():
            outer, _, inner = name.rpartition(".")
            (arguments.setdefault(outer, {}) if outer else arguments)[inner] = tensor.to(
                device, dtype
            )
        return arguments


def _as_loaded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In a type, but for what diffusers leaves in single precision when it loads the model."""
    kept: Any = model._keep_in_fp32_modules or ()
    nn.Module.to(model, dtype)
    for name, module in model.named_modules():
        if not set(kept).isdisjoint(name.split(".")):
            module.float()
    for name, parameter in model.named_parameters():
        if not set(kept).isdisjoint(name.split(".")):
            parameter.data = parameter.data.float()
    return model


def _fill(model: nn.Module, device: torch.device) -> None:
    generator = torch.Generator(device).manual_seed(0)
    for tensor in model.parameters():
        tensor.normal_(std=SPREAD, generator=generator)
    for module in model.modules():
        # Of what `to_empty` left without a value: tables of frequencies, which are not saved.
        if any(True for _ in module.buffers(recurse=False)):
            _refresh(module, device)


def _refresh(module: nn.Module, device: torch.device) -> None:
    for name, buffer in module.named_buffers(recurse=False):
        fresh = torch.linspace(0, 1, buffer.numel(), device=device).reshape(buffer.shape)
        setattr(module, name, fresh.to(buffer.dtype))


def models(tiny: bool = False, listing: Path = LISTING) -> dict[str, Model]:
    """Those of a listing, by name; `tiny` ones of the same classes for a machine without GPU."""
    listed = yaml.safe_load(listing.read_text())
    return {name: _model(name, entry, tiny) for name, entry in listed.items()}


def _model(name: str, entry: dict[str, Any], tiny: bool) -> Model:
    given = dict(entry)
    small = dict(given.pop("tiny"))
    config = given.pop("config")
    if tiny:
        config = {**config, **small.pop("config")}
        given |= small
    for key in ("branches", "only", "compiled", "sub_modules"):
        if key in given:
            given[key] = tuple(given[key])
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    return Model(name=name, cls=given.pop("class"), config=lists, **given)
