"""Streams and return order: what one block returns is what the next one receives."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autocache.authoring.checks.reference import Arguments
from autocache.authoring.checks.subject import NotApplicable, Subject
from autocache.spec.schema import Stack


def streams(subject: Subject) -> Iterator[str]:
    """Every block of every stack returns what the spec says, and hands it to the next one."""
    if not subject.bound.block_count:
        raise NotApplicable(subject.spec.no_blocks or "there are no block stacks")
    model = subject.fresh()
    passes = {
        stack.path: [_Pass(block) for block in model.get_submodule(stack.path).children()]
        for stack in subject.spec.stacks
    }
    subject.call(model, 0)
    for stack in subject.spec.stacks:
        arguments = Arguments(stack)
        seen = [passed for passed in passes[stack.path] if passed.arguments]
        forms = [_wrong_form(stack, one.output) or _written(stack, one) for one in seen]
        if any(forms):
            nth = next(nth for nth, wrong in enumerate(forms) if wrong)
            yield f"{stack.path}[{nth}]: {forms[nth]}"
            continue
        pairs = itertools.pairwise(seen)
        orders = [list(_wrong_order(stack, arguments, *pair)) for pair in pairs]
        if stack.each and not all(orders):
            # Somewhere the model may put such blocks together otherwise, but not everywhere.
            continue
        for nth, problems in enumerate(orders):
            yield from (f"{stack.path}[{nth}]: {problem}" for problem in problems)
            if problems:
                break


@dataclass
class _Pass:
    """What a block was called with and returned."""

    block: nn.Module
    arguments: dict[str, Any] = field(default_factory=dict)
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    entered: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    output: Any = None

    def __post_init__(self) -> None:
        self.block.register_forward_pre_hook(self._enters, with_kwargs=True)
        self.block.register_forward_hook(self._leaves)

    def _enters(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        self.args, self.kwargs = args, kwargs
        self.arguments = dict(list(given.arguments.items())[1:])
        self.entered = {name: copy.deepcopy(value) for name, value in self.arguments.items()}
        self.versions = {n: v._version for n, v in self.arguments.items() if _is_tensor(v)}

    def _leaves(self, module: nn.Module, args: tuple, output: Any) -> None:
        # What comes next may write into it.
        self.output = copy.deepcopy(output)


def _wrong_form(stack: Stack, output: Any) -> str | None:
    """A bare value where a tuple is stated, or the other way round, or of another length."""
    names = stack.return_items
    if isinstance(stack.returns, str):
        if isinstance(output, tuple) and stack.streams_of(stack.returns) == (stack.returns,):
            return f"returns {len(output)} values, stated is one ({stack.returns})"
        return None
    if not isinstance(output, tuple | list):
        return f"returns a bare {type(output).__name__}, stated is a tuple of {len(names)}"
    if len(output) != len(names):
        return f"returns {len(output)} values, stated are {len(names)}"
    for name, value in zip(names, output, strict=True):
        if name in stack.streams and not (value is None or _is_tensor(value)):
            return f"returns a {type(value).__name__} where stated is the stream {name}"
    return None


def _written(stack: Stack, passed: _Pass) -> str | None:
    """An argument that is no stream and that the block writes into is one all the same."""
    known = {stream.partition(".")[0] for stream in stack.streams}
    for name, version in passed.versions.items():
        if name not in known and passed.arguments[name]._version != version:
            return f"writes into its argument {name}, which is no stream"
    return None


def _wrong_order(
    stack: Stack, arguments: Arguments, passed: _Pass, following: _Pass
) -> Iterator[str]:
    left = arguments.returned(passed.output)
    received = arguments.entering(following.block, (), following.entered)
    for name, value in left.items():
        yield from _wrong_stream(stack, name, value, left, received)
    for value in arguments.others(passed.output):
        for name, given in following.entered.items():
            if _equal(value, given):
                yield f"a value stated as null is what the next block receives as {name}"


def _wrong_stream(
    stack: Stack, name: str, value: Any, left: Mapping[str, Any], received: Mapping[str, Any]
) -> Iterator[str]:
    if not _is_tensor(value) or not _is_tensor(received[name]):
        if (value is None) != (received[name] is None) and not stack.each:
            yield f"{name} is returned as {_kind(value)} and received as {_kind(received[name])}"
        return
    if _equal(value, received[name]):
        return
    others = [other for other in left if other != name]
    for other in others:
        if _equal(value, received[other]) or _equal(left[other], received[name]):
            yield (
                f"what it returns as {name} the next block receives as {other}; "
                "check the order in returns"
            )
            return
    if stack.each:
        return
    if value.shape != received[name].shape:
        yield (
            f"{name} is returned as {list(value.shape)} and received by the next block as "
            f"{list(received[name].shape)}"
        )
        return
    near = min([name, *others], key=lambda other: _distance(left[other], received[name]))
    if near != name:
        yield (
            f"what the next block receives as {name} is nearer to what this one returns as "
            f"{near}; check the order in returns"
        )


def _equal(one: Any, other: Any) -> bool:
    return (
        _is_tensor(one)
        and _is_tensor(other)
        and one.shape == other.shape
        and bool(torch.equal(one, other))
    )


def _distance(one: Any, other: torch.Tensor) -> float:
    if not _is_tensor(one) or one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().mean())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
