"""Joining a spec to a live model, after checking every fact in it against that model."""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocache.errors import DoesNotApplyError, ParameterError, SpecError, nearest
from autocache.spec import drift, levels
from autocache.spec.facts import Location
from autocache.spec.flow import Flow, reach
from autocache.spec.loader import line_of
from autocache.spec.schema import Kind, Probe, Spec, Stack

Problem = tuple[Location, str]


class Signature:
    """Finds arguments by name in the (args, kwargs) of a call, as the callee would."""

    __slots__ = ("defaults", "names", "positions")

    def __init__(self, cls: type[nn.Module]) -> None:
        parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.positions = {p.name: i for i, p in enumerate(parameters) if p.kind in positional}
        self.names = tuple(p.name for p in parameters if p.kind not in variadic)
        self.defaults = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }

    def get(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of the named argument, its default when the call leaves it out.

        After dots follow names or indices of what is within it.

        Raises TypeError when the call leaves out an argument that has no default.
        """
        if name in kwargs:
            return kwargs[name]
        position = self.positions.get(name)
        if position is not None and position < len(args):
            return args[position]
        if name in self.defaults:
            return self.defaults[name]
        argument, dot, inside = name.partition(".")
        if dot:
            return reach(self.get(argument, args, kwargs), tuple(inside.split(".")))
        raise TypeError(f"argument {name!r} is missing{nearest(name, self.names)}")


@functools.cache
def signature(cls: type[nn.Module]) -> Signature:
    """The signature of a module class, read once per class."""
    return Signature(cls)


@dataclass(frozen=True, eq=False)
class BoundStack:
    """One stack of the live model; `offset` is the index of its first block among all stacks'."""

    spec: Stack
    path: str
    blocks: tuple[nn.Module, ...]
    offset: int
    binders: tuple[Signature, ...]
    flow: Flow

    @property
    def binder(self) -> Signature:
        """The signature of the first block, which in a stack of one class is everyone's."""
        return self.binders[0]

    def attention(self, index: int) -> list[tuple[str, nn.Module, Kind]]:
        """The attention modules that a block has: path within it, module, kind."""
        kinds = self.spec.attention
        return [(p, m, kinds[name]) for name, p, m in _present(self.blocks[index], kinds)]

    def feed_forward(self, index: int) -> list[tuple[str, nn.Module]]:
        """The feed-forward modules that a block has, with their paths within it."""
        return [(p, m) for _, p, m in _present(self.blocks[index], self.spec.feed_forward)]


@dataclass(frozen=True, eq=False)
class Bound:
    """A spec and the modules of one model that it describes."""

    spec: Spec
    model: nn.Module
    stacks: tuple[BoundStack, ...]
    unet: levels.UNet | None = None

    @functools.cached_property
    def layers(self) -> list[nn.Module]:
        """What stands for blocks in a UNet: the modules that its levels are layers of."""
        return [self.model.get_submodule(path) for path in self.unet.layers] if self.unet else []

    @functools.cached_property
    def attention(self) -> list[tuple[str, nn.Module, Kind]]:
        """The attention modules outside the stacks: name, module, kind."""
        return [
            (name, module, kind)
            for pattern, kind in self.spec.attention.items()
            for name, module in named(self.model, pattern)
        ]

    @functools.cached_property
    def feed_forward(self) -> list[tuple[str, nn.Module]]:
        """The feed-forward modules outside the stacks, with their names."""
        return [found for p in self.spec.feed_forward for found in named(self.model, p)]

    @property
    def attention_kinds(self) -> set[Kind]:
        """The kinds of attention there are."""
        return {kind for _, _, kind in (*self.attention, *self._inside())}

    @property
    def attention_count(self) -> int:
        """The number of attention modules."""
        return len(list(self._inside())) + len(self.attention)

    def _inside(self) -> Iterator[tuple[str, nn.Module, Kind]]:
        for stack in self.stacks:
            for index in range(len(stack.blocks)):
                yield from stack.attention(index)

    def stack(self, path: str | None = None) -> BoundStack:
        """The stack of that path, or the first that has blocks.

        Raises ParameterError when there is none of that path, DoesNotApplyError when none at all.
        """
        for stack in self.stacks:
            if stack.path == path or (path is None and stack.blocks):
                return stack
        if path is None:
            why = f" ({self.spec.no_blocks})" if self.spec.no_blocks else ""
            raise DoesNotApplyError(
                f"{self.spec.name} has no stack of blocks that can be skipped as one{why}; "
                "strategies that act on the inner levels of a UNet (deepcache), on sub-modules "
                "(attention) or on the whole call (easycache) may apply to it"
            )
        paths = [stack.path for stack in self.stacks]
        raise ParameterError(f"{self.spec.name} has no block stack {path!r}{nearest(path, paths)}")

    @property
    def block_count(self) -> int:
        """The number of blocks in all stacks together."""
        return sum(len(stack.blocks) for stack in self.stacks)


def named(model: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """The modules whose path fits a pattern, in which `*` stands for anything.

    A `?` at its end says that there may be none.
    """
    pattern = pattern.removesuffix("?")
    return [(n, m) for n, m in model.named_modules() if fnmatch.fnmatchcase(n, pattern)]


def bind(spec: Spec, model: nn.Module) -> Bound:
    """Find the modules a spec speaks of.

    Raises SpecError, with one line `file:line:column: message` per problem, when a fact in the
    spec does not hold for the model.
    """
    problems = list(_model_problems(spec, model))
    stacks: list[BoundStack] = []
    offset = 0
    for i, stack in enumerate(spec.stacks):
        modules = _module(model, stack.path)
        if not isinstance(modules, nn.ModuleList):
            problems.append((("stacks", i, "path"), _no_stack(stack.path, modules, model)))
            continue
        blocks = tuple(modules)
        binders = tuple(signature(type(block)) for block in blocks)
        stacks.append(BoundStack(stack, stack.path, blocks, offset, binders, Flow(stack)))
        offset += len(blocks)
        problems.extend(_stack_problems(("stacks", i), stack, blocks))
    first = stacks[0].blocks[:1] if stacks and stacks[0].spec is spec.stacks[0] else ()
    for name, probe in spec.probes.items():
        problems.extend(_probe_problems(("probes", name), probe, model, first))
    if spec.unet is not None:
        found = levels.problems(spec.unet, model)
        problems.extend((("unet", key), message) for key, message in found)
    live = {type(b): n.names for s in stacks for b, n in zip(s.blocks, s.binders, strict=True)}
    changed = drift.changes(spec, live)
    if problems:
        problems.extend(drift.blame(spec, changed))
        lines = (f"{line_of(spec, *location)}: {message}" for location, message in problems)
        raise SpecError("\n".join(lines))
    drift.warn(spec, changed)
    unet = levels.find(spec.unet, model) if spec.unet is not None else None
    return Bound(spec, model, tuple(stacks), unet)


def _model_problems(spec: Spec, model: nn.Module) -> Iterator[Problem]:
    names = signature(type(model)).names
    for key in ("timestep", "latent", "frames"):
        given = getattr(spec, key)
        if given is not None and given not in names:
            yield (key,), _no_argument(given, type(model), names)
    for name in spec.batch_axes:
        if name not in names:
            yield ("batch_axes", name), _no_argument(name, type(model), names)
    for name in spec.compute_when:
        if name.partition(".")[0] not in names:
            yield ("compute_when", name), _no_argument(name, type(model), names)
    if spec.unet is not None:
        # A UNet is put together from levels with and without attention.
        return
    # What does not change with time may be absent from a checkpoint, an image embedder for one.
    expected = [pattern for pattern in spec.invariant if not pattern.endswith("?")]
    if expected and not any(named(model, pattern) for pattern in spec.invariant):
        yield ("invariant",), f"no module of {type(model).__name__} fits any of these patterns"
    for key in ("attention", "feed_forward"):
        for i, pattern in enumerate(getattr(spec, key)):
            if not pattern.endswith("?") and not named(model, pattern):
                at = (key, pattern if key == "attention" else i)
                yield at, f"no module of {type(model).__name__} fits {pattern!r}"


def _stack_problems(at: Location, stack: Stack, blocks: tuple[nn.Module, ...]) -> Iterator[Problem]:
    for cls in dict.fromkeys(type(block) for block in blocks):
        # Patched blocks are instances of a subclass, so the name may belong to a base.
        names = [base.__name__ for base in cls.__mro__]
        if not set(names) & set(stack.block_names):
            message = f"the blocks of {stack.path!r} are {cls.__name__}, not "
            yield (*at, "block"), message + " or ".join(stack.block_names)
        arguments = signature(cls).names
        for i, stream in enumerate(stack.streams):
            if stream.partition(".")[0] not in arguments:
                yield (*at, "streams", i), _no_argument(stream, cls, arguments)
    for block in blocks[:1]:
        for path in stack.attention:
            yield from _absent((*at, "attention", path), blocks, path)
        for i, path in enumerate(stack.feed_forward):
            yield from _absent((*at, "feed_forward", i), blocks, path)
        if stack.after_attention:
            yield from _missing((*at, "after_attention"), block, stack.after_attention)


def _probe_problems(
    at: Location, probe: Probe, model: nn.Module, first: tuple[nn.Module, ...]
) -> Iterator[Problem]:
    if probe.output_of:
        yield from _missing((*at, "output_of", "module"), model, probe.output_of.module)
    for block in first:
        arguments = signature(type(block)).names
        if probe.argument and probe.argument not in arguments:
            yield (*at, "argument"), _no_argument(probe.argument, type(block), arguments)
        if probe.call:
            here = (*at, "call")
            yield from _missing((*here, "module"), block, probe.call.module)
            where = (*here, "arguments")
            yield from _unknown(where, block, probe.call.module, probe.call.arguments)
            for parameter, argument in probe.call.arguments.items():
                if argument not in arguments:
                    message = _no_argument(argument, type(block), arguments)
                    yield (*where, parameter), message
        if probe.input_of:
            here = (*at, "input_of")
            yield from _missing((*here, "module"), block, probe.input_of.module)
            yield from _unknown(here, block, probe.input_of.module, [probe.input_of.argument])


def _missing(at: Location, parent: nn.Module, path: str) -> Iterator[Problem]:
    if _module(parent, path) is None:
        names = (name for name, _ in parent.named_modules() if name)
        yield at, f"{type(parent).__name__} has no submodule {path!r}{nearest(path, names)}"


def _absent(at: Location, blocks: tuple[nn.Module, ...], path: str) -> Iterator[Problem]:
    """A sub-module that no block has although one of them must."""
    if not path.endswith("?") and all(_module(block, path) is None for block in blocks):
        yield from _missing(at, blocks[0], path)


def _present(block: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """Those of the named sub-modules that a block has: name, path, module."""
    for name in names:
        path = name.removesuffix("?")
        module = _module(block, path)
        if module is not None:
            yield name, path, module


def _unknown(at: Location, parent: nn.Module, path: str, given: Iterable[str]) -> Iterator[Problem]:
    module = _module(parent, path)
    if module is None:
        return
    names = signature(type(module)).names
    for name in given:
        if name not in names:
            yield (*at, name), _no_argument(name, type(module), names)


def _no_argument(name: str, cls: type, names: Iterable[str]) -> str:
    return f"{cls.__name__}.forward has no argument {name!r}{nearest(name, names)}"


def _no_stack(path: str, found: nn.Module | None, model: nn.Module) -> str:
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if found is None:
        return f"{type(model).__name__} has no {path!r}{nearest(path, lists)}"
    return f"{path!r} is a {type(found).__name__}, not a ModuleList{nearest(path, lists)}"


def _module(parent: nn.Module, path: str) -> nn.Module | None:
    try:
        return parent.get_submodule(path)
    except AttributeError:
        return None
