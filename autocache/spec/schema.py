"""What a model spec holds: facts about one denoiser architecture, no behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from autocache.errors import nearest
from autocache.spec.facts import Facts, Location, Name, Names, Number
from autocache.spec.proof import Proof
from autocache.spec.tables import MagCacheTable, Preset, TeaCacheTable

Kind = Literal["self", "joint", "cross", "temporal"]
Style = Literal[
    "none",
    "embedded",
    "batched",
    "batched_conditional_first",
    "batched_many",
    "sequential",
    "separate",
]

LATENT_NAMES = ("hidden_states", "sample", "x")
"""What denoisers usually call the argument that holds the latent."""


class Stack(Facts):
    """One list of blocks that the denoiser runs in order.

    What `attention` and `feed_forward` name may be absent from some of the blocks; with a `?` at
    its end it may be absent from all, as the checkpoint's config has it.
    """

    path: Name = Field(description="The list of blocks, as an attribute path in the denoiser.")
    block: Name | Names = Field(description="Class of the blocks, or their classes.")
    streams: Names = Field(
        description="Arguments of a block's forward that flow through the stack, the latent one "
        "first; `state.image` is the attribute, key or index `image` of the argument `state`."
    )
    returns: Name | Annotated[list[Name | None], Field(min_length=1)] = Field(
        description="One name when a block returns one value, otherwise the names in the order of "
        "the returned tuple: of streams, of an argument that contains streams, or null for any "
        "other value."
    )
    each: bool = Field(
        False,
        description="Whether the model does not simply run the blocks one after another: they are "
        "interleaved with another list, or return values that are no streams.",
    )
    attention: dict[Name, Kind] = Field(
        {}, description="Attention modules within a block, by path, and what each attends to."
    )
    feed_forward: list[Name] = Field([], description="Feed-forward modules within a block.")
    after_attention: Name | None = Field(
        None,
        description="Submodule of a block whose first argument is the latent stream after "
        "attention was added to it.",
    )

    @property
    def block_names(self) -> tuple[str, ...]:
        """The class names a block of this stack may have."""
        return (self.block,) if isinstance(self.block, str) else tuple(self.block)

    @property
    def return_items(self) -> tuple[str | None, ...]:
        """What a block returns, in order: a stream, an argument with streams in it, or None."""
        return (self.returns,) if isinstance(self.returns, str) else tuple(self.returns)

    @property
    def return_order(self) -> tuple[str, ...]:
        """The streams in the order a block returns them."""
        return tuple(s for item in self.return_items if item for s in self.streams_of(item))

    def streams_of(self, item: str) -> tuple[str, ...]:
        """The stream of that name, or those within the argument of that name."""
        if item in self.streams:
            return (item,)
        return tuple(stream for stream in self.streams if stream.startswith(item + "."))


class Call(Facts):
    """A submodule of the first block, called with arguments the block itself received."""

    module: Name = Field(description="Path of the submodule in the block.")
    arguments: dict[Name, Name] = Field(
        description="Arguments of the submodule, and the block's argument that each is given."
    )
    output: int | None = Field(None, description="Which of several returned values it is.")


class Output(Facts):
    """What a submodule of the denoiser returns when it runs."""

    module: Name = Field(description="Path of the submodule in the denoiser.")
    output: int | None = Field(None, description="Which of several returned values it is.")


class Input(Facts):
    """What the first block hands to one of its submodules."""

    module: Name = Field(description="Path of the submodule in the block.")
    argument: Name = Field(description="Which argument of the submodule's forward it is.")


class Probe(Facts):
    """A tensor that tells how far a step moved; exactly one way to get it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [key], "properties": {key: {"not": {"type": "null"}}}}
                for key in ("argument", "call", "output_of", "input_of")
            ]
        }
    )

    argument: Name | None = Field(None, description="An argument of the first block's forward.")
    call: Call | None = None
    output_of: Output | None = None
    input_of: Input | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            valid = ", ".join(type(self).model_fields)
            raise PydanticCustomError(
                "probe",
                "a probe needs exactly one of {valid}, not {found}",
                {"valid": valid, "found": found},
            )
        return self


class Guidance(Facts):
    """How a pipeline does guidance, and what its denoiser calls of one step are called."""

    style: Style = Field(
        description="How the pipeline calls the denoiser: without an unconditional branch (none; "
        "embedded where the scale is an argument), with both in one batch (the unconditional one "
        "first, or last; batched_many with more than two in it), once for each (the conditional "
        "one first), or with a model of its own for the unconditional one."
    )
    branches: Names | None = Field(
        None,
        description="The names given by diffusers' cache_context, or 0, 1, ... in the order of the "
        "calls; with more of a name, name#1 and so on.",
    )


def _by_style(value: Any) -> Any:
    return {"style": value} if isinstance(value, str) else value


GuidanceOrStyle = Annotated[
    Guidance, BeforeValidator(_by_style, json_schema_input_type=Style | Guidance)
]
"""The style alone says it all for most pipelines."""


class Levels(Facts):
    """Where a UNet has its blocks, from full resolution inwards and out again."""

    down: Name | Names = Field(
        "down_blocks",
        description="Module list with an item for each level; of several lists, the items of one "
        "level run in turns.",
    )
    middle: Name = Field("mid_block", description="What runs at the innermost level.")
    up: Name | Names = Field("up_blocks", description="As `down`, on the way out.")
    layers: Names = Field(
        ["resnets", "attentions"],
        description="Lists within a block that run in turns, first to last of one layer, and then "
        "what changes the resolution; a block that is a list has no others.",
    )
    skips: Literal["layer", "block"] = Field(
        "layer",
        description="What a skip connection comes from and goes to: each layer, or the block as a "
        "whole.",
    )
    downsamplers: Name | Names = Field(
        "downsamplers",
        description="Lists or modules of a down block that run for the deeper levels alone.",
    )


class Spec(Facts):
    """Everything autocache knows about one denoiser class.

    `attention`, `feed_forward` and `invariant` name modules by patterns of their path, in which `*`
    stands for anything and a `?` at the end allows for none.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [key]} for key in ("stacks", "unet", "no_blocks", "same_as")]
        }
    )

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    model: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] = Field(
        description="The class of the denoiser, as package.module:Class; subclasses count as it."
    )
    same_as: Name | None = Field(
        None,
        description="The class (package.module:Class) of another spec, all of which holds for this "
        "one: a fork, or a class that moved. Nothing else is given then.",
    )
    building_block: bool = Field(
        False,
        description="Whether other models are built from this class: activation leaves it alone "
        "where it is no component of a pipeline.",
    )
    timestep: Name | None = Field(
        "timestep", description="Argument of forward that holds it, null where there is none."
    )
    timestep_scale: Number = Field(
        1.0,
        description="What it is multiplied by to be the scheduler's timestep.",
    )
    timestep_offset: Number = Field(0.0, description="What is added to it then.")
    latent: Name | None = Field(
        None, description="Argument of forward with the latents, where it has an unusual name."
    )
    latent_layout: Literal["BCHW", "BCFHW", "BFCHW", "BFHWC", "BCL", "tokens"] | None = Field(
        None, description="Batch, channels, frames, height, width or length in their order."
    )
    frames: Name | None = Field(
        None,
        description="Argument of forward with the number of latent frames, where these are packed "
        "into tokens.",
    )
    batch_axes: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Arguments of forward whose tensors have the batch on another axis than 0."
    )
    stacks: list[Stack] = Field([], description="The lists of blocks, in the order they run.")
    unet: Levels | None = None
    no_blocks: Name | None = Field(None, description="Why blocks cannot be skipped.")
    compute_when: dict[Name, list[str | bool | int]] = Field(
        {},
        description="Values of arguments, or of what is within them after a dot, that make a call "
        "write into the model's own caches: nothing in it is skipped.",
    )
    attention: dict[Name, Kind] = Field({}, description="Attention modules outside the stacks.")
    feed_forward: list[Name] = Field([], description="Feed-forward modules outside the stacks.")
    invariant: list[Name] = Field(
        [],
        description="Modules whose output does not change between steps as long as their inputs "
        "do not.",
    )
    probes: dict[Name, Probe] = Field(
        {}, description="Tensors that tell how far a step moved, by a name of each."
    )
    guidance: dict[Name, GuidanceOrStyle] = Field(
        {}, description="How each pipeline that runs this class does guidance."
    )
    teacache: list[TeaCacheTable] = Field([], description="Published tables of teacache.")
    magcache: list[MagCacheTable] = Field([], description="Published tables of magcache.")
    presets: dict[str, list[Preset]] = Field({}, description="Published parameters, by strategy.")
    proof: Proof | None = None

    _file: Path | None = PrivateAttr(default=None)
    _marks: dict[Location, tuple[int, int]] = PrivateAttr(default_factory=dict)

    @property
    def name(self) -> str:
        """The class name of the denoiser."""
        return self.model.rpartition(":")[2]

    @property
    def latent_names(self) -> tuple[str, ...]:
        """What the argument that holds the latent may be called."""
        return (self.latent,) if self.latent else LATENT_NAMES

    @property
    def guidance_styles(self) -> dict[str, Style]:
        """How each pipeline does guidance."""
        return {pipeline: guidance.style for pipeline, guidance in self.guidance.items()}

    @property
    def file(self) -> Path | None:
        """The file this spec was loaded from, None when it was built in memory."""
        return self._file

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(self._problems())
        if problems:
            text = "; ".join(message for _, message in problems)
            raise PydanticCustomError("facts", "{text}", {"text": text, "problems": problems})
        return self

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.same_as is not None:
            for name in self.model_fields_set - {"schema_", "model", "same_as"}:
                yield (name,), f"{name!r} cannot be given: everything is as in {self.same_as}"
            return
        if not self.stacks and self.unet is None and self.no_blocks is None:
            yield ("stacks",), "a spec needs stacks of blocks, a unet, or no_blocks with a reason"
        if self.stacks and self.no_blocks is not None:
            yield ("no_blocks",), "says that blocks cannot be skipped, but there are stacks"
        paths: set[str] = set()
        for i, stack in enumerate(self.stacks):
            if stack.path in paths:
                yield ("stacks", i, "path"), f"stack {stack.path!r} is listed twice"
            paths.add(stack.path)
            if len(set(stack.streams)) < len(stack.streams):
                yield ("stacks", i, "streams"), "a stream is listed twice"
            if len(set(stack.return_order)) < len(stack.return_order):
                yield ("stacks", i, "returns"), "a stream is returned twice"
            if None in stack.return_items and not stack.each:
                message = "null is for values that are no streams, which wants each: true"
                yield ("stacks", i, "returns"), message
            if not any(stack.return_items):
                yield ("stacks", i, "returns"), "no stream is returned"
            for item in stack.return_items:
                if item is not None and not stack.streams_of(item):
                    message = f"{item!r} is not one of the streams"
                    yield ("stacks", i, "returns"), message + nearest(item, stack.streams)
        for i, table in enumerate(self.teacache):
            if table.probe not in self.probes:
                message = f"no probe is called {table.probe!r}"
                yield ("teacache", i, "probe"), message + nearest(table.probe, self.probes)
        for strategy in self.presets:
            if not strategy:
                yield ("presets", strategy), "a strategy name is empty"
