"""What in the trace tells a step from the next, and what never changes between steps."""

from __future__ import annotations

import re
from typing import Any

from autocache.authoring.attention import Attention, Tree
from autocache.authoring.stacks import Chain
from autocache.authoring.study import Study
from autocache.authoring.trace import Call
from autocache.spec.bind import signature

_TIME = re.compile(r"time|t_emb|temb|adaln_single", re.IGNORECASE)
_NORM = re.compile(r"norm", re.IGNORECASE)


def probes(
    study: Study, tree: Tree, stack: Chain | None, first: Attention | None
) -> dict[str, Any]:
    """The probes of a spec: the modulated input of the first block, and the time embedding."""
    found: dict[str, Any] = {}
    if stack is not None and first is not None and first.queries is not None:
        modulated = _modulated(study, tree, stack, first, first.queries)
        if modulated:
            found["modulated_input"] = modulated
    embedding = _time_embedding(study)
    if embedding:
        found["time_embedding"] = {"output_of": embedding}
    return found


def _modulated(
    study: Study, tree: Tree, stack: Chain, first: Attention, queries: str
) -> dict[str, Any] | None:
    """The tensor that the first attention reads, if the timestep reaches it within the block."""
    block, attention = stack.calls[0], first.call
    twin = study.twin(block, study.time)
    timed = [name for name in block.arguments if study.changed(block, name, study.time)]
    if twin is None or not set(timed) - set(stack.streams):
        return None
    if not study.changed(attention, queries, study.time):
        return None
    if len(stack.blocks) == 1:
        for call in tree.below(block):
            if call.order < attention.order and (how := _as_call(block, call, attention, queries)):
                return {"call": how}
    module = attention.path.removeprefix(f"{block.path}.")
    if queries not in signature(type(attention.module)).names:
        return None
    return {"input_of": {"module": module, "argument": queries}}


def _as_call(block: Call, call: Call, attention: Call, queries: str) -> dict[str, Any] | None:
    """A module whose result the attention reads, if all it is given the block was given too."""
    asked = attention.arguments[queries].tensor
    result = next((name for name, v in call.output.items() if v.tensor is asked), None)
    if result is None or not call.arguments or call.others:
        return None
    given: dict[str, str] = {}
    for name, value in call.arguments.items():
        same = [n for n, v in block.arguments.items() if v.tensor is value.tensor]
        if not same or "." in name or "." in same[0]:
            return None
        given[name] = same[0]
    path = call.path.removeprefix(f"{block.path}.")
    how: dict[str, Any] = {"module": path, "arguments": given}
    return how if call.bare else {**how, "output": int(result)}


def _time_embedding(study: Study) -> dict[str, Any] | None:
    """The first module outside the blocks that turns the timestep, and nothing else, into numbers
    for them."""
    for call in study.base.calls[1:]:
        name = call.path.rpartition(".")[2]
        outer = call.caller is study.base.calls[0]
        if not outer or not _TIME.search(name) or not any(True for _ in call.module.parameters()):
            continue
        if len(study.base.of(call.path)) > 1:
            # Some of its calls may be with a time that never changes.
            continue
        for result in call.output:
            timed = study.changed(call, result, study.time, out=True)
            plain = not study.changed(call, result, study.content, out=True)
            if study.time is not None and timed and plain:
                return {"module": call.path} | ({} if call.bare else {"output": int(result)})
    return None


def after_attention(tree: Tree, stack: Chain, found: list[Attention]) -> str | None:
    """The norm that reads the latent stream after attention was added to it."""
    block = stack.calls[0]
    if not found or stack.streams[0] not in block.arguments:
        return None
    latent, attention = block.arguments[stack.streams[0]], found[0].call
    for call in tree.below(block):
        inside = any(call.path.startswith(f"{other.path}.") for other in found)
        if call.order < attention.order or inside or not _NORM.search(call.path):
            continue
        value = next(iter(call.arguments.values()), None)
        added = value is not None and ("added", attention.path) in value.marks
        if value is not None and added and value.shape == latent.shape:
            return call.path.removeprefix(f"{block.path}.")
    return None


def invariant(study: Study) -> list[str]:
    """The modules that are given, and return, the same at every step; not what is within them."""
    constant: list[str] = []
    root = study.base.calls[0]
    if study.step is None or study.timestep is None:
        return []
    for call in study.base.calls:
        if call is root or not _works(call) or any(_within(call.path, p) for p in constant):
            continue
        if all(_constant(study, one) for one in study.base.of(call.path)):
            constant.append(call.path)
    return constant


def _works(call: Call) -> bool:
    trained = any(True for _ in call.module.parameters())
    return trained and bool(call.arguments) and bool(call.output)


def _within(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.")


def _constant(study: Study, call: Call) -> bool:
    given = not any(study.changed(call, name, study.step) for name in call.arguments)
    return given and not any(study.changed(call, n, study.step, out=True) for n in call.output)
