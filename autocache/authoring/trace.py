"""One recorded forward: which modules were called, by whom, with what, and from what it came."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autocache.authoring.provenance import NONE, Marks, Provenance

LIMIT = 64
"""Items of a container that are looked at."""


@dataclass(frozen=True)
class Value:
    """A tensor as it was when it was passed: itself, its shape then, its content, its marks."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    digest: bytes
    marks: Marks = NONE


@dataclass(eq=False)
class Call:
    """One call of a module; arguments and results by their dotted names."""

    path: str
    module: nn.Module
    caller: Call | None
    order: int
    arguments: dict[str, Value]
    output: dict[str, Value] = field(default_factory=dict)
    bare: bool = True
    """Whether one tensor was returned, not a tuple of values."""
    items: int = 1
    """The number of values returned."""
    attends: bool = False
    """Whether it, or a part of it without parameters, lets tokens attend to tokens."""
    others: tuple[str, ...] = ()
    """The arguments that are no tensors."""


@dataclass(eq=False)
class Trace:
    """All calls of one forward, in the order they began; the first one is the model's own."""

    calls: list[Call]

    def of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]


def record(
    model: nn.Module, inputs: Mapping[str, Any], lists: Mapping[str, str], *, marks: bool = True
) -> Trace:
    """Run one forward and record it; equal arguments give equal calls.

    `lists` maps the path of each block to that of its list. What a block returns carries the mark
    (list, path of the block, name of the value), what a module within a block returns carries
    ("module", path) until the block is left, what goes into the model ("input", name).
    Without `marks` a mark stays on the very tensor it was given to.
    Raises whatever forward raises.
    """
    recorder = _Recorder(model, lists)
    given = copy.deepcopy(dict(inputs))
    with contextlib.ExitStack() as around:
        around.enter_context(recorder.hooked())
        around.enter_context(torch.no_grad())
        around.enter_context(torch.random.fork_rng(devices=[]))
        # Compiled code would be out of sight.
        around.enter_context(torch.compiler.set_stance("force_eager"))
        torch.manual_seed(0)
        if marks:
            around.enter_context(recorder.provenance)
        model(**given)
    return Trace(recorder.calls)


class _Recorder:
    def __init__(self, model: nn.Module, lists: Mapping[str, str]) -> None:
        self.model = model
        self.lists = lists
        self.provenance = Provenance(self._attends)
        self.calls: list[Call] = []
        self.stack: list[Call] = []

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        try:
            for path, module in self.model.named_modules(remove_duplicate=False):
                if isinstance(module, nn.ModuleList | nn.ModuleDict):
                    continue
                enter, leave = self._enter(path), self._leave(path)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            with self._paused():
                caller = self.stack[-1] if self.stack else None
                given = bound(module, args, kwargs)
                if caller is None:
                    self._mark_inputs(given)
                call = Call(path, module, caller, len(self.calls), self._values(given))
                call.others = tuple(n for n, v in given.items() if v is not None and not _has(v))
            self.calls.append(call)
            self.stack.append(call)

        return hook

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            call = self.stack.pop()
            with self._paused():
                items = _items(output)
                call.bare = not isinstance(output, tuple | list | dict)
                call.items = len(items)
                if path in self.lists:
                    self._mark_output(path, items)
                else:
                    self._mark_passed(path, items)
                call.output = self._values(items)

        return hook

    def _attends(self) -> None:
        trained = (c for c in reversed(self.stack) if any(True for _ in c.module.parameters()))
        if call := next(trained, None):
            call.attends = True

    def _mark_inputs(self, given: dict[str, Any]) -> None:
        for name, tensor in leaves(given):
            self.provenance.set(tensor, frozenset({("input", name.partition(".")[0])}))

    def _mark_output(self, path: str, items: dict[str, Any]) -> None:
        name = self.lists[path]
        for leaf, tensor in leaves(items):
            # Only the last block a value came through is of interest, one of each list.
            marks = self.provenance.of(tensor)
            kept = {mark for mark in marks if mark[0] not in (name, "module", "added")}
            self.provenance.set(tensor, frozenset(kept | {(name, path, leaf)}))

    def _mark_passed(self, path: str, items: dict[str, Any]) -> None:
        if any(outer.path in self.lists for outer in self.stack):
            for _, tensor in leaves(items):
                marks = self.provenance.of(tensor) | {("module", path)}
                self.provenance.set(tensor, marks)

    def _values(self, given: dict[str, Any]) -> dict[str, Value]:
        return {
            name: Value(tensor, tuple(tensor.shape), digest(tensor), self.provenance.of(tensor))
            for name, tensor in leaves(given)
        }

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        self.provenance.paused, before = True, self.provenance.paused
        try:
            yield
        finally:
            self.provenance.paused = before


def bound(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names in the signature, variadic ones under their own."""
    signature = inspect.signature(module.forward)
    try:
        given = signature.bind(*args, **kwargs)
    except TypeError:
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
    result: dict[str, Any] = {}
    for name, value in given.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            result.update(value)
        else:
            result[name] = value
    return result


def leaves(given: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor with its dotted name: argument, then attribute, key or index."""
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif inner := _inner(value):
            yield from ((f"{name}.{part}", tensor) for part, tensor in leaves(inner))


def _has(value: Any) -> bool:
    return any(True for _ in leaves({"": value}))


def _inner(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in list(value.items())[:LIMIT]}
    if isinstance(value, list | tuple):
        return {str(index): item for index, item in enumerate(value[:LIMIT])}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return {}


def _items(output: Any) -> dict[str, Any]:
    """What was returned, by position; a single value is the first and only one."""
    if isinstance(output, Mapping):
        return {str(index): item for index, item in enumerate(output.values())}
    if isinstance(output, list | tuple):
        return {str(index): item for index, item in enumerate(output)}
    return {"0": output}


def digest(tensor: torch.Tensor) -> bytes:
    """Equal for tensors of equal shape, type and content."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return str(tensor.shape).encode()
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    head = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.blake2b(head + content, digest_size=12).digest()
