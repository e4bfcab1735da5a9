"""What a strategy says about itself, read from its docstring and its parameter model."""

from __future__ import annotations

import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from autocache.strategy.recipe import Strategy

LABELS = ("Formula", "Memory", "Choose it", "Source")


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter: its type and range in words, its default, what it is and in which unit."""

    name: str
    values: str
    default: Any
    description: str
    universal: bool
    """Whether every strategy has it."""
    required: bool = False
    """Whether it has to be given; the default is then None."""


@dataclass(frozen=True)
class StrategyInfo:
    """One strategy: its name, what it does in a sentence, and its parameters with defaults."""

    name: str
    summary: str
    about: str
    """Two or three sentences more."""
    formula: str
    memory: str
    choose_it: str
    source: str
    parameters: dict[str, ParameterInfo]


def info(strategy: type[Strategy]) -> StrategyInfo:
    """What a strategy says about itself.

    Raises:
        ValueError: its docstring lacks one of the labelled paragraphs.
    """
    from autocache.strategy.recipe import Strategy as Base

    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(strategy.__doc__ or ""))
    summary, *rest = (" ".join(paragraph.split()) for paragraph in paragraphs)
    labelled = dict.fromkeys(LABELS, "")
    about = []
    for paragraph in rest:
        label, colon, text = paragraph.partition(": ")
        if colon and label in labelled:
            labelled[label] = text
        else:
            about.append(paragraph)
    missing = [label for label in LABELS if not labelled[label]]
    if missing:
        raise ValueError(f"the docstring of {strategy.name} says nothing of: {', '.join(missing)}")
    fields = strategy.model_fields
    # A strategy's own parameters come first, in the order of its file.
    ordered = sorted(fields, key=lambda key: key in Base.model_fields)
    return StrategyInfo(
        strategy.name,
        summary,
        "\n\n".join(about),
        labelled["Formula"],
        labelled["Memory"],
        labelled["Choose it"],
        labelled["Source"],
        {key: _parameter(key, fields[key], key in Base.model_fields) for key in ordered},
    )


def _parameter(name: str, field: FieldInfo, universal: bool) -> ParameterInfo:
    bounds = [
        f"{sign} {getattr(rule, key):g}"
        for rule in field.metadata
        for key, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(rule, key)
    ]
    values = ", ".join([_words(field.annotation), *bounds])
    required = field.is_required()
    default = None if required else field.get_default()
    return ParameterInfo(name, values, default, field.description or "", universal, required)


def _words(annotation: Any) -> str:
    """A type as a reader of the documentation expects it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in arguments if one is not type(None))
    if origin in (tuple, list):
        inner = [_words(one) for one in arguments if one is not Ellipsis]
        many = origin is list or Ellipsis in arguments
        return f"list of {inner[0]}" if many else f"({', '.join(inner)})"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
