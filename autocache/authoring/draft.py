"""A first spec of a class, from its source and from forwards of a tiny instance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autocache.authoring import facts, pipelines, structure
from autocache.authoring.notation import constructed, value
from autocache.authoring.shrink import Tiny, shrunk
from autocache.authoring.study import Study, study
from autocache.authoring.target import Target, resolve
from autocache.authoring.unseen import of_modules
from autocache.authoring.yaml_writer import Entry, Note, Question, document, questions
from autocache.errors import ParameterError, SpecError

HEAD = (
    "yaml-language-server: $schema=spec.schema.json",
    "A draft: answer every QUESTION below, then run `autocache specs verify` on this file.",
)


def draft(
    target: str | Path | type | nn.Module,
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> str:
    """The text of a spec for a class of denoisers, to be saved as `<Class>.yaml`.

    `target` is the name of a class in diffusers, `module:Class`, the directory of a pipeline or of
    a model, a class, or a live model, which is left as it is. `config` are the constructor's
    arguments of a tiny instance and `inputs` the arguments of one call of its forward, both as in
    the `proof` of a spec; what is not given is made up from the class. What forwards of that
    instance and the source do not tell is a comment line that starts with QUESTION, never a guess.

    Raises UnknownModelError when the target is no such class, and ParameterError when the given
    config or inputs do not build or run.
    """
    return drafted(resolve(target), config, inputs).text


@dataclass(frozen=True)
class Drafted:
    """The text of a spec, and the questions in it."""

    text: str
    questions: tuple[Question, ...]


def drafted(
    found: Target,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Drafted:
    """As `draft`, of a class that is found already."""
    tiny, problem = _tiny(found, config, inputs)
    ran = _studied(tiny, config is not None and inputs is not None) if tiny else None
    uses = pipelines.uses(found.cls.__name__) if _from_diffusers(found.cls) else []
    entries: list[Entry | Note] = [Entry("schema", 1), Entry("model", found.name)]
    entries += facts.timestep(found.cls, ran, uses)
    if ran is not None and tiny is not None:
        seen = structure.seen_in(ran)
        entries += [*facts.latent(ran), *structure.entries(seen), facts.guidance(uses)]
        entries.append(facts.proof(found.cls, seen.found.stacks, tiny.config, tiny.inputs))
    else:
        entries += of_modules(found.cls, tiny.model if tiny else None, problem)
        entries.append(facts.guidance(uses))
    return Drafted(document(entries, HEAD), tuple(questions(entries)))


def _from_diffusers(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "diffusers"


def _tiny(
    target: Target, config: Mapping[str, Any] | None, inputs: Mapping[str, Any] | None
) -> tuple[Tiny | None, str]:
    """A tiny instance with inputs; without inputs when no forward could be run, and why."""
    if config is None or inputs is None:
        return shrunk(target, config, inputs)
    with _as_parameters():
        arguments = value(dict(config), key="config", config=True)
        model = constructed(target.cls, arguments, seed=0, key="config")
        call = value(dict(inputs), key="inputs")
    return Tiny(model, dict(config), dict(inputs), call), ""


def _studied(tiny: Tiny, strict: bool) -> Study | None:
    if tiny.call is None:
        return None
    try:
        return study(tiny.model, tiny.call)
    except Exception as error:
        if strict:
            words = " ".join(str(error).split())
            raise ParameterError(
                f"inputs: forward of the tiny {type(tiny.model).__name__} does not run: "
                f"{type(error).__name__}: {words}"
            ) from error
        return None


@contextlib.contextmanager
def _as_parameters() -> Iterator[None]:
    """What is wrong with the given values is no fault of a spec."""
    try:
        yield
    except SpecError as error:
        raise ParameterError(str(error)) from error
