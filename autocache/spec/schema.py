"""What a model spec holds: facts about one denoiser architecture, no behaviour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from autocache.errors import nearest

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
"""How a pipeline calls the denoiser: without an unconditional branch, with both in one batch
(the unconditional one first, or last; with more than two in it), once for each (the conditional one
first), or with a model of its own for the unconditional one."""
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Location = tuple[str | int, ...]


class Facts(BaseModel):
    """Base of every part of a spec: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Stack(Facts):
    """One list of blocks that the denoiser runs in order.

    `streams` are the arguments of the block's forward that flow through the stack, the latent
    one first; `state.image` is the attribute, key or index `image` of the argument `state`.
    `returns` is one name when a block returns one value, otherwise the names in the order of the
    returned tuple: of streams, of an argument that contains streams, or null for any other value.
    `each` marks lists whose blocks the model does not simply run one after another: interleaved
    with another list, or returning values that are no streams. `after_attention` is a submodule
    whose first argument is the latent stream after attention was added to it, within the block.
    What `attention` and `feed_forward` name may be absent from some of the blocks; with a `?` at
    its end it may be absent from all, as the checkpoint's config has it.
    """

    path: Name
    block: Name | Names
    streams: Names
    returns: Name | Annotated[list[Name | None], Field(min_length=1)]
    each: bool = False
    attention: dict[Name, Kind] = {}
    feed_forward: list[Name] = []
    after_attention: Name | None = None

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

    module: Name
    arguments: dict[Name, Name]
    output: int | None = None


class Output(Facts):
    """What a submodule of the denoiser returns when it runs."""

    module: Name
    output: int | None = None


class Input(Facts):
    """What the first block hands to one of its submodules."""

    module: Name
    argument: Name


class Probe(Facts):
    """A tensor that tells how far a step moved; exactly one way to get it."""

    argument: Name | None = None
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
    """How a pipeline does guidance, and what its denoiser calls of one step are called.

    `branches` are the names given by diffusers' `cache_context`, or "0", "1", ... in the order of
    the calls; with more of a name, `name#1` and so on.
    """

    style: Style
    branches: Names | None = None


def _by_style(value: Any) -> Any:
    return {"style": value} if isinstance(value, str) else value


GuidanceOrStyle = Annotated[
    Guidance, BeforeValidator(_by_style, json_schema_input_type=Style | Guidance)
]
"""The style alone says it all for most pipelines."""


class TeaCacheTable(Facts):
    """One published TeaCache polynomial and the checkpoint it was fitted on.

    `coefficients` start with the highest order. `thresholds` are the published ones, gentlest
    first. `ret_steps` marks tables fitted without the first steps of the schedule. `fitted_on` is
    the checkpoint a borrowed table was fitted on, which is none of `checkpoints`.
    """

    id: Name
    match: dict[str, Any] = {}
    checkpoints: list[Name] = []
    probe: Name
    coefficients: Annotated[list[Number], Field(min_length=1)]
    thresholds: list[Number] = []
    ret_steps: bool = False
    warmup_steps: Annotated[int, Field(ge=0)] = 1
    force_last: bool = True
    steps: Annotated[int, Field(ge=1)] | None = None
    scheduler: str | None = None
    provenance: Literal["official", "lightx2v", "community", "bundled"]
    fitted_on: Name | None = None
    source: Name


class Preset(Facts):
    """Published parameters of one strategy, and the step count they were published for."""

    match: dict[str, Any] = {}
    checkpoints: list[Name] = []
    steps: Annotated[int, Field(ge=1)] | None = None
    parameters: dict[str, Any]
    source: Name


class MagCacheTable(Facts):
    """Published magnitude ratios: by guidance branch, one per step of the calibration run.

    `fitted_on` is the checkpoint a borrowed table was fitted on, which is none of `checkpoints`.
    """

    id: Name
    match: dict[str, Any] = {}
    checkpoints: list[Name] = []
    ratios: dict[Literal["all", "cond", "uncond"], Annotated[list[Number], Field(min_length=2)]]
    threshold: Number | None = None
    max_consecutive_skips: Annotated[int, Field(ge=1)] | None = None
    retention: Annotated[float, Field(ge=0, le=1)] | None = None
    scheduler: str | None = None
    fitted_on: Name | None = None
    source: Name


class Levels(Facts):
    """Where a UNet has its blocks, from full resolution inwards and out again.

    `down` and `up` are module lists with an item for each level; of several, the items of one
    level run in turns. `layers` are the lists within a block that run in turns, first to last of
    one layer, and then what changes the resolution; a block that is a list has no others. `skips`
    tells what a skip connection comes from and goes to: each layer, or the block as a whole.
    `downsamplers` are lists or modules of a down block that run for the deeper levels alone.
    """

    down: Name | Names = "down_blocks"
    middle: Name = "mid_block"
    up: Name | Names = "up_blocks"
    layers: Names = ["resnets", "attentions"]
    skips: Literal["layer", "block"] = "layer"
    downsamplers: Name | Names = "downsamplers"


class Loop(Facts):
    """A tiny pipeline around the tiny model, and one generation with it.

    `components` are what its constructor is given: a mapping with `class` (a name in diffusers, or
    `module:Class`) and `config` is built, `denoiser` stands for the tiny model and `denoiser 2` for
    another one with other weights, any other value is passed as it is; what is not named is None.
    `call` are the arguments of the generation, written as in `Proof.inputs`. `branches` are the
    guidance branches of a full step, as in `Guidance`.
    """

    pipeline: Name | None = None
    components: dict[Name, Any] = {}
    call: dict[Name, Any] = {}
    branches: Names = ["0"]
    generations: Annotated[int, Field(ge=1)] = 1


class Proof(Facts):
    """What the spec was proven on, and a tiny real model with which to prove it again.

    `package` is the name and version of the package the classes come from. `signatures` are the
    argument names of the forward of each block class in it. `config` are the arguments of the
    denoiser's constructor, `inputs` those of one call. There a mapping with `shape` is a tensor:
    standard normal, or `value` (a number everywhere), `values` (all of them) or integers `below` a
    number, of `dtype` (float32). A mapping with `class` (`module:Class`) is an object built with
    the arguments `config`; then its `attributes` are set, by paths such as `layers.0.key`.
    """

    package: Name
    signatures: dict[Name, list[Name]] = {}
    config: dict[Name, Any] = {}
    inputs: dict[Name, Any] = {}
    pipelines: dict[Name, Loop] = {}


class Spec(Facts):
    """Everything autocache knows about one denoiser class.

    `building_block` marks a class that other models are built from: activation leaves it alone
    where it is no component of a pipeline.
    `timestep` is the argument of forward that holds it, null where there is none; times
    `timestep_scale` plus `timestep_offset` it is the scheduler's timestep. `frames` is the argument
    with the number of latent frames where these are packed into tokens. `no_blocks` says why blocks
    cannot be skipped. `compute_when` lists values of arguments, or of what is within them after a
    dot, that make a call write into the model's own caches: nothing in it is skipped. `attention`,
    `feed_forward` and `invariant` name modules by patterns of their path, `*` standing for
    anything and a `?` at the end allowing for none: attention and feed-forward outside the stacks,
    and modules whose output does not change between steps as long as their inputs do not.
    """

    schema_: Literal[1] = Field(alias="schema")
    model: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
    building_block: bool = False
    timestep: Name | None = "timestep"
    timestep_scale: Number = 1.0
    timestep_offset: Number = 0.0
    latent: Name | None = None
    latent_layout: Literal["BCHW", "BCFHW", "BFCHW", "BFHWC", "BCL", "tokens"] | None = None
    frames: Name | None = None
    stacks: list[Stack] = []
    unet: Levels | None = None
    no_blocks: Name | None = None
    compute_when: dict[Name, list[str | bool | int]] = {}
    attention: dict[Name, Kind] = {}
    feed_forward: list[Name] = []
    invariant: list[Name] = []
    probes: dict[Name, Probe] = {}
    guidance: dict[Name, GuidanceOrStyle] = {}
    teacache: list[TeaCacheTable] = []
    magcache: list[MagCacheTable] = []
    presets: dict[str, list[Preset]] = {}
    proof: Proof | None = None

    _file: Path | None = PrivateAttr(default=None)
    _marks: dict[Location, tuple[int, int]] = PrivateAttr(default_factory=dict)

    @property
    def name(self) -> str:
        """The class name of the denoiser."""
        return self.model.rpartition(":")[2]

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


class Entry(Protocol):
    """What tables and presets share: the checkpoints they belong to."""

    @property
    def match(self) -> dict[str, Any]: ...

    @property
    def checkpoints(self) -> list[str]: ...


E = TypeVar("E", bound=Entry)


def matches(
    entry_match: Mapping[str, Any],
    entry_checkpoints: Sequence[str],
    config: Mapping[str, Any],
    name: str | None = None,
) -> bool:
    """Whether a table or preset belongs to a checkpoint.

    It does when `name` (by default `_name_or_path` of the config) is one of the checkpoints, or
    when there is something to match and every item equals the config's; a list is any of.
    """
    if _named(entry_checkpoints, name or config.get("_name_or_path")):
        return True
    return bool(entry_match) and all(
        key in config and config[key] in (value if isinstance(value, list) else [value])
        for key, value in entry_match.items()
    )


def choose(entries: Sequence[E], config: Mapping[str, Any], name: str | None = None) -> list[E]:
    """The entries of a checkpoint: those that name it, else those whose config matches.

    The name comes first because checkpoints may share one config: FLUX.1-Kontext-dev cannot be
    told from FLUX.1-dev by its config.
    """
    known = name or config.get("_name_or_path")
    named = [entry for entry in entries if _named(entry.checkpoints, known)]
    return named or [entry for entry in entries if matches(entry.match, [], config, None)]


def _named(checkpoints: Sequence[str], name: str | None) -> bool:
    # A pipeline loads its denoiser from a folder inside the hub cache, so the name arrives as
    # `…/models--owner--repository/snapshots/<hash>/transformer` more often than as a repository.
    if not name:
        return False
    parts = {part.rpartition("--")[2].lower() for part in re.split(r"[/\\]", name)}
    return any(checkpoint.rpartition("/")[2].lower() in parts for checkpoint in checkpoints)
