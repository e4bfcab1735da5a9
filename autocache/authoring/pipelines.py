"""How diffusers' pipelines call a denoiser, read from their sources."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autocache.spec.schema import Style

_UNCONDITIONAL = re.compile(r"uncond|neg", re.IGNORECASE)


@dataclass
class Use:
    """One pipeline that takes the denoiser as `attribute`."""

    pipeline: str
    attribute: str
    style: Style | None = None
    branches: list[str] = field(default_factory=list)
    why: str = ""
    """What the style was read from, or what was found instead."""
    scale: float | None = None
    """What the scheduler's timestep is divided by before it is handed to the denoiser."""


def uses(name: str) -> list[Use]:
    """The pipelines of diffusers whose constructor takes a class of this name."""
    found: list[Use] = []
    for file in _files():
        text = _text(file)
        # A plain look-up first: of hundreds of files few name the class.
        if name not in text or not re.search(rf"\b{name}\b", text):
            continue
        for cls in _classes(file):
            if cls.name.endswith("Pipeline"):
                found += [_read(cls, attribute) for attribute in _attributes(cls, name)]
    return sorted({use.pipeline: use for use in found}.values(), key=lambda use: use.pipeline)


@functools.cache
def _files() -> tuple[Path, ...]:
    found = importlib.util.find_spec("diffusers")
    places = found.submodule_search_locations if found else None
    folders = [Path(place) / "pipelines" for place in places or ()]
    files = [file for folder in folders for file in sorted(folder.rglob("pipeline_*.py"))]
    # Their pipelines cannot be imported from diffusers as others can.
    return tuple(file for file in files if "deprecated" not in file.parts)


@functools.cache
def _classes(file: Path) -> tuple[ast.ClassDef, ...]:
    return tuple(node for node in ast.parse(_text(file)).body if isinstance(node, ast.ClassDef))


@functools.cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _attributes(cls: ast.ClassDef, name: str) -> Iterator[str]:
    """The arguments of the constructor that are annotated with the class."""
    for method in cls.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for argument in [*method.args.args, *method.args.kwonlyargs]:
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                if re.search(rf"\b{name}\b", annotation):
                    yield argument.arg
                    return


def _read(cls: ast.ClassDef, attribute: str) -> Use:
    use = Use(cls.name, attribute)
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
    by_method = {method: _calls(method, attribute) for method in methods}
    calls = [call for found in by_method.values() for call in found]
    scales = {_scale(method, call) for method, found in by_method.items() for call in found}
    use.scale = scales.pop() if len(scales) == 1 else None
    if not calls:
        use.why = f"nothing in it calls self.{attribute}; it may hand it to others"
        return use
    loops = [method for method, found in by_method.items() if found]
    contexts = [name for method in loops for name in _contexts(method)]
    text = "\n".join(ast.unparse(method) for method in loops)
    _decide(use, cls.name, calls, list(dict.fromkeys(contexts)), text)
    return use


def _calls(method: ast.FunctionDef, attribute: str) -> list[ast.Call]:
    """Calls of the denoiser, also through a variable that stands for it."""
    names: set[str | None] = {f"self.{attribute}"}
    for node in _nodes(method):
        if isinstance(node, ast.Assign) and _dotted(node.value) in names:
            names |= {_dotted(target) for target in node.targets} - {None}
    found = [node for node in _nodes(method) if isinstance(node, ast.Call)]
    return [node for node in found if _dotted(node.func) in names]


@functools.cache
def _nodes(method: ast.FunctionDef) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(method))


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` as it is written; None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)) is not None:
        return f"{head}.{node.attr}"
    return None


def _contexts(method: ast.FunctionDef) -> Iterator[str]:
    for node in _nodes(method):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "cache_context" and node.args:
            name = node.args[0]
            known = name.value if isinstance(name, ast.Constant) else None
            yield known if isinstance(known, str) else f"<{ast.unparse(name)}>"


def _decide(use: Use, name: str, calls: list[ast.Call], contexts: list[str], text: str) -> None:
    halves = _halves(text)
    many = re.search(r"\] \* (?:3|4)\b|chunk\((?:3|4)\)", text)
    doubled = re.search(r"torch\.cat\(\[[\w.]+\] \* 2\)|torch\.cat\(\[(\w+), \1\]", text)
    guided = any(word.arg == "guidance" for call in calls for word in call.keywords)
    if many or "PAG" in name:
        use.why = "more than two passes may be in one batch"
    elif any(context.startswith("<") for context in contexts):
        use.why = f"its contexts are named by {', '.join(contexts)}"
    elif len(contexts) > 1 and len(calls) > 1:
        plain = len(contexts) == 2 and not doubled
        use.branches = contexts
        use.style = "sequential" if plain else None
        use.why = f"contexts {', '.join(contexts)}"
    elif doubled or halves:
        use.style, use.why = halves, "one call with both halves in a batch"
        if len(calls) > 1 or halves is None:
            use.style, use.why = None, f"{len(calls)} calls, and a batch of two"
    elif len(calls) == 2 and re.search(_UNCONDITIONAL, text):
        use.style, use.why = "sequential", "two calls for each step"
    elif len(calls) == 1 and guided:
        use.style, use.why = "embedded", "one call, which is given the guidance scale"
    else:
        use.why = f"{len(calls)} call(s), and no batch of two halves was recognised"


def _halves(text: str) -> Style | None:
    """Which half of a batch is the unconditional one, by the names it is split into."""
    split = re.search(r"(\w+), (\w+) = [\w.\[\]]+\.chunk\(2", text)
    if split is None:
        return None
    first, second = (bool(_UNCONDITIONAL.search(name)) for name in split.groups())
    if first == second:
        return None
    return "batched" if first else "batched_conditional_first"


def _scale(method: ast.FunctionDef, call: ast.Call) -> float | None:
    """What a call divides the timestep by: 1 where it is passed as it is, None if unclear."""
    for word in call.keywords:
        if word.arg not in ("timestep", "timesteps"):
            continue
        value = word.value
        if isinstance(value, ast.Name):
            return 1.0 if _unchanged(method, value.id) else None
        if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Div):
            return None
        by = value.right.value if isinstance(value.right, ast.Constant) else None
        return float(by) if isinstance(by, int | float) else None
    return None


def _unchanged(method: ast.FunctionDef, name: str) -> bool:
    """Whether nothing is computed on what a variable is given."""
    given = [
        node.value
        for node in _nodes(method)
        if isinstance(node, ast.Assign) and any(_dotted(t) == name for t in node.targets)
    ]
    return not any(isinstance(node, ast.BinOp) for value in given for node in ast.walk(value))
