"""Attention and feed-forward modules, found in what ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from autocache.authoring.trace import Call, Trace, Value
from autocache.spec.schema import Kind

_ATTENTION = re.compile(r"att(?:n|ention)|mha|mhba", re.IGNORECASE)
_NOT = re.compile(r"norm|linear|drop|proj|embed|identity|rope|mask|gate|mlp|feed", re.IGNORECASE)
_FEED_FORWARD = re.compile(
    r"^(?:(?:\w+_)?(?:ff|ffn|mlp|feed_forward|feedforward)(?:_\w+)?|proj_mlp|transition)$"
)
_NO_TOKENS = re.compile(
    r"mask|rope|rotary|rotemb|emb$|temb|pos|freq|scale|time|cos|sin|bias|mod|shift|gate|cache"
)
_NORM = re.compile(r"(?:norm|ln)\d?$", re.IGNORECASE)
_SOURCE = re.compile(r"enc|context|cond|text|txt|memory|source")
_KEYS = re.compile(r"(?:^|_)(?:k|kv|qkv|key|k_proj|kv_proj|qkv_proj)(?:_|$)|to_k|qkv")
_TEMPORAL_PATH = re.compile(r"(?<!spatio_)temporal|temp_|motion")
_TEMPORAL_CLASS = re.compile(r"(?<!Spatio)Temporal")


@dataclass(frozen=True)
class Attention:
    """An attention module, by its path in the model, and the argument with its queries."""

    path: str
    kind: Kind
    queries: str | None
    call: Call


class Tree:
    """The calls of a trace by who made them."""

    def __init__(self, trace: Trace) -> None:
        self._made: dict[Call, list[Call]] = {}
        for call in trace.calls:
            if call.caller is not None:
                self._made.setdefault(call.caller, []).append(call)

    def below(self, call: Call) -> Iterator[Call]:
        """Everything called within a call, in order, each before what is within it."""
        for made in self._made.get(call, []):
            yield made
            yield from self.below(made)


def attentions(tree: Tree, within: Call, streams: list[Value]) -> list[Attention]:
    """The attention modules called within a call; `streams` are those of the block around them."""
    found: dict[str, Attention] = {}
    for call in tree.below(within):
        if not _is_attention(call) or any(_is_attention(inner) for inner in tree.below(call)):
            continue
        if getattr(call.module, "residual_connection", False):
            # What it returns has its own input in it, which must not be kept.
            continue
        queries = _queries(call)
        kind = kind_of(tree, call, queries, streams)
        found.setdefault(call.path, Attention(call.path, kind, queries, call))
    return list(found.values())


def feed_forwards(tree: Tree, within: Call) -> list[str]:
    """The paths of the feed-forward modules called within a call, the outermost ones."""
    found: list[str] = []
    for call in tree.below(within):
        outer = any(call.path.startswith(f"{path}.") for path in found)
        if outer or call.path in found or not _FEED_FORWARD.match(call.path.rpartition(".")[2]):
            continue
        if not any(True for _ in call.module.parameters()) or _NORM.search(call.path):
            continue
        beside = call.caller is not None and any(map(_is_attention, tree.below(call.caller)))
        if beside and not any(map(_is_attention, tree.below(call))):
            found.append(call.path)
    return found


def absent(block: nn.Module) -> list[str]:
    """The attention modules a block has no use for with its config: attributes that are None."""
    every = {**vars(block), **block._modules}
    named = [name for name, value in every.items() if value is None and _ATTENTION.search(name)]
    return [name for name in named if not _NOT.search(name) and not name.startswith("_")]


def _is_attention(call: Call) -> bool:
    name, cls = call.path.rpartition(".")[2], type(call.module).__name__
    if _NOT.search(cls) or _NOT.search(name) or isinstance(call.module, nn.Sequential):
        return False
    own = bool(_ATTENTION.search(name) or _ATTENTION.search(cls))
    weighty = any(True for _ in call.module.parameters())
    return (own or call.attends) and weighty and bool(call.arguments)


def _queries(call: Call) -> str | None:
    """The argument with the tokens that ask: the first tensor."""
    return next((n for n in call.arguments if not _NO_TOKENS.search(n)), None)


def kind_of(tree: Tree, call: Call, queries: str | None, streams: list[Value]) -> Kind:
    """Self, joint, cross or temporal, from where keys and values come from."""
    if queries is None:
        return "self"
    asking = call.arguments[queries]
    sources = [
        value
        for name, value in call.arguments.items()
        if name != queries
        and not _NO_TOKENS.search(name)
        and value.tensor.is_floating_point()
        and (len(value.shape) == len(asking.shape) or _SOURCE.search(name))
        and value.digest != asking.digest
    ]
    if not sources and _temporal(call):
        return "temporal"
    if not sources:
        return "joint" if _concatenated(asking, streams) else "self"
    given = [value.shape for value in call.output.values()]
    if sum(len(shape) == len(asking.shape) for shape in given) > 1:
        return "joint"
    if given and _sum_of([asking, *sources], given[0]):
        return "joint"
    if any(_contains(source, asking) for source in sources):
        return "joint"
    return "self" if _asks_itself(tree, call, asking) else "cross"


def _temporal(call: Call) -> bool:
    """Whether the path of a module, or a class around it, says that it attends over time."""
    if _TEMPORAL_PATH.search(call.path):
        return True
    outer = call.caller
    while outer is not None:
        if _TEMPORAL_CLASS.search(type(outer.module).__name__):
            return True
        outer = outer.caller
    return False


def _concatenated(asking: Value, streams: list[Value]) -> bool:
    return len(streams) > 1 and _sum_of(streams, asking.shape)


def _sum_of(parts: list[Value], shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of the parts put one after another along their tokens."""
    if any(len(part.shape) != len(shape) for part in parts):
        return False
    return any(sum(p.shape[d] for p in parts) == shape[d] for d in range(len(shape) - 1))


def _contains(source: Value, asking: Value) -> bool:
    """Whether a source is the asking tokens with others behind them."""
    tokens = asking.tensor
    if tokens.ndim == 4 and source.tensor.ndim == 3:
        tokens = tokens.flatten(2).transpose(1, 2)
    if source.tensor.ndim != tokens.ndim or tokens.ndim < 2:
        return False
    head = source.tensor.narrow(-2, 0, min(tokens.shape[-2], source.shape[-2]))
    return head.shape != source.shape and torch.equal(head, tokens)


def _asks_itself(tree: Tree, call: Call, asking: Value) -> bool:
    """Whether keys are made from the asking tokens too."""
    for inner in tree.below(call):
        fed = any(value.digest == asking.digest for value in inner.arguments.values())
        if fed and _KEYS.search(inner.path.rpartition(".")[2]):
            return True
    return False
