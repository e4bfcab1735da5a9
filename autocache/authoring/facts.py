"""What a spec says of the model as a whole: timestep, latent, guidance, and the proof."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from autocache.authoring.describe import described
from autocache.authoring.pipelines import Use
from autocache.authoring.stacks import Chain
from autocache.authoring.study import TIME_NAMES, Study
from autocache.authoring.yaml_writer import Entry, Note, question
from autocache.spec.bind import signature
from autocache.spec.schema import LATENT_NAMES

AUDIO = ("audio", "music", "1d")


def timestep(cls: type[nn.Module], study: Study | None, uses: list[Use]) -> Iterator[Entry | Note]:
    """The argument with the timestep, and what the scheduler's one is divided by."""
    names = signature(cls).names
    name = study.timestep if study else next((n for n in TIME_NAMES if n in names), None)
    if name is None:
        text = f"which argument of forward holds the timestep? There are {', '.join(names)}."
        yield Entry("timestep", None, [question(text, decisive=True)])
        return
    given = study.inputs if study else {}
    others = [n for n in names if "time" in n and n != name and given.get(n) is not None]
    if name != "timestep" or others:
        asked = [question(f"or is it {' or '.join(others)}?")] if others else []
        yield Entry("timestep", name, asked)
    if study is not None and study.time is None:
        yield Note(
            [question(f"what must change with {name}? Forward did not run with another one.")]
        )
    # They all call the same forward, so those that are plain speak for the others.
    scales = {use.scale for use in uses} - {None}
    known = scales.pop() if len(scales) == 1 else None
    if known is None:
        text = f"timestep_scale: what times {name} is the scheduler's timestep? 1 is assumed here."
        yield Note([question(text + " Look at what the pipeline hands over.")])
    elif known != 1:
        yield Entry("timestep_scale", int(known) if known == int(known) else known)


def latent(study: Study) -> Iterator[Entry | Note]:
    """The argument with the latent, and how its axes are ordered."""
    name = study.latent
    if name is None:
        text = "latent: which argument of forward holds the latent?"
        yield Note([question(text, decisive=True)])
        return
    names = signature(type(study.model)).names
    if name in LATENT_NAMES:
        if name != LATENT_NAMES[0]:
            yield Entry("latent", name)
    elif _comes_out(study, name):
        text = f"is {name} the latent? It was taken for its shape, which is that of what comes out."
        yield Entry("latent", name, [question(text)])
    else:
        text = f"latent: which argument of forward holds the latent? Not {name}?"
        yield Note([question(text, decisive=True)])
        return
    value = study.base.calls[0].arguments.get(name)
    sure = value is not None and name in LATENT_NAMES
    layout = _layout(study.model, value.shape) if value and sure else None
    if layout is None:
        shape = f"of shape {list(value.shape)}" if value else "a list"
        yield Note([question(f"latent_layout: how are the axes of {name} ordered? It is {shape}.")])
        return
    yield Entry("latent_layout", layout)
    frames = [n for n in names if n in ("num_frames", "num_latent_frames")]
    if layout == "tokens" and frames:
        yield Entry("frames", frames[0])


def _comes_out(study: Study, name: str) -> bool:
    """Whether what is returned is shaped as an argument, or as an item of it."""
    root = study.base.calls[0]
    given = [v.shape for n, v in root.arguments.items() if n.partition(".")[0] == name]
    return any(value.shape in given for value in root.output.values())


def _layout(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """The order of the axes, by which of them is as long as the config has channels."""
    config = getattr(model, "config", None)
    channels = config.get("in_channels") if isinstance(config, Mapping) else None
    at = [axis for axis in range(1, len(shape)) if shape[axis] == channels]
    if len(shape) == 3 and any(word in type(model).__name__.lower() for word in AUDIO):
        return None
    known = {(3, 2): "tokens", (4, 1): "BCHW", (5, 1): "BCFHW", (5, 2): "BFCHW", (5, 4): "BFHWC"}
    return known.get((len(shape), at[0])) if len(at) == 1 else None


def guidance(uses: list[Use]) -> Entry | Note:
    """What each pipeline does, and a question for those whose source did not tell."""
    known: dict[str, Any] = {}
    for use in uses:
        if use.style is not None:
            plain = not use.branches or use.branches == ["cond", "uncond"]
            styled = {"style": use.style, "branches": use.branches}
            known[use.pipeline] = use.style if plain else styled
    asked = [
        question(f"how does {use.pipeline} do guidance? {use.why}.")
        for use in uses
        if use.style is None
    ]
    if known:
        return Entry("guidance", known, asked)
    text = "guidance: which pipelines use this model, and how do they call it?"
    return Note(asked or [question(text)])


def proof(cls: type[nn.Module], chains: list[Chain], config: Any, inputs: Any) -> Entry:
    """What the draft was read from."""
    blocks = dict.fromkeys(type(call.module) for chain in chains for call in chain.calls)
    value: dict[str, Any] = {"package": _package(cls)}
    if blocks:
        value["signatures"] = {block.__name__: list(signature(block).names) for block in blocks}
    return Entry("proof", {**value, "config": described(config), "inputs": described(inputs)})


def _package(cls: type) -> str:
    name = cls.__module__.partition(".")[0]
    names = _distributions().get(name, [name])
    try:
        return f"{names[0]} {importlib.metadata.version(names[0])}"
    except importlib.metadata.PackageNotFoundError:
        return name


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
