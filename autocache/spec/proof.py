"""What a spec was proven on, and a tiny real model with which to prove it again."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from autocache.spec.facts import Facts, Name, Names


class Loop(Facts):
    """A tiny pipeline around the tiny model, and one generation with it."""

    pipeline: Name | None = Field(
        None, description="Class of the pipeline, in diffusers; by default the label."
    )
    components: dict[Name, Any] = Field(
        {},
        description="What its constructor is given; what is not named is None. A mapping with "
        "`class` (a name in diffusers, or module:Class) and `config` is built, `denoiser` is the "
        "tiny model, `denoiser 2` another with other weights, any other value is passed as it is.",
    )
    call: dict[Name, Any] = Field(
        {}, description="Arguments of the generation, written as in `inputs`."
    )
    branches: Names = Field(
        ["0"], description="Guidance branches of a full step, as in `guidance`."
    )
    generations: Annotated[int, Field(ge=1)] = Field(
        1, description="Generations that one call of the pipeline makes."
    )


class Proof(Facts):
    """What the spec was proven on, and a tiny real model with which to prove it again."""

    package: Name = Field(
        description="Name and version of the package the classes come from, as diffusers 0.42.1."
    )
    signatures: dict[Name, list[Name]] = Field(
        {}, description="Argument names of the forward of each block class in that version."
    )
    config: dict[Name, Any] = Field(
        {}, description="Arguments of the denoiser's constructor that make a tiny one."
    )
    inputs: dict[Name, Any] = Field(
        {},
        description="Arguments of one call. A mapping with `shape` is a tensor: standard normal, "
        "or `value` (a number everywhere), `values` (all of them) or integers `below` a number, of "
        "`dtype` (float32). A mapping with `class` (module:Class) is an object built with the "
        "arguments `config`; then its `attributes` are set, by paths such as layers.0.key.",
    )
    pipelines: dict[Name, Loop] = Field(
        {}, description="Tiny pipelines to run it in, by a label of each."
    )
