"""Stacks, levels, attention and probes of a spec, from what ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocache.authoring import attention, probes, stacks, unets
from autocache.authoring.study import Study
from autocache.authoring.trace import Call
from autocache.authoring.yaml_writer import Entry, Note, Noted, question

NO_PROBE = question(
    "probes: no tensor was found that tells how far a step moved. Strategies that watch one "
    "(teacache) want it; the others do not."
)
NO_SKIPS = question(
    "down_blocks and up_blocks look like a UNet, but no skip connection between them was seen: "
    "which lists are the levels, and what are their layers?",
    decisive=True,
)
NO_STACKS = question(
    "no ModuleList was seen to hand a tensor that depends on the latent from one of its blocks to "
    "the next. Which modules are the blocks? If there are none, say why here.",
    decisive=True,
)


@dataclass(frozen=True)
class Seen:
    """What ran, and the stacks or the levels of a UNet found in it."""

    study: Study
    tree: attention.Tree
    levels: unets.Levels | None
    found: stacks.Found


def seen_in(study: Study) -> Seen:
    """Look for the levels of a UNet, and where there are none for stacks."""
    tree = attention.Tree(study.base)
    levels = unets.find(study, tree)
    found = stacks.find(study) if levels is None else stacks.Found([], {})
    return Seen(study, tree, levels, found)


def entries(seen: Seen) -> Iterator[Entry | Note]:
    """The keys from `stacks` or `unet` to `probes`."""
    model = seen.study.model
    if seen.levels is not None:
        yield _unet(seen.levels)
        yield from _outside(seen)
    elif seen.found.stacks:
        yield Entry("stacks", [_stack(seen.tree, chain) for chain in seen.found.stacks])
        yield from _others(seen.found)
    elif _looks_like_unet(model):
        yield Entry("unet", {}, [NO_SKIPS])
        yield from _outside(seen)
    else:
        yield Entry("no_blocks", "no list of blocks was found", [NO_STACKS])
        yield from _others(seen.found)
    constant = probes.invariant(seen.study)
    if constant:
        if seen.levels is not None:
            constant = list(unets.patterns(model, dict.fromkeys(constant, "self")))
        yield Entry("invariant", unets.folded(model, constant))
    moving = probes.probes(seen.study, seen.tree, *_first(seen))
    if moving:
        yield Entry("probes", moving)
    elif seen.study.time is not None:
        yield Note([NO_PROBE])


def _first(seen: Seen) -> tuple[stacks.Chain | None, attention.Attention | None]:
    """The first stack, and the first attention in its first block."""
    if not seen.found.stacks:
        return None, None
    stack = seen.found.stacks[0]
    return stack, next(iter(_attention_of(seen.tree, stack, stack.calls[0])), None)


def _others(found: stacks.Found) -> Iterator[Note]:
    lines = [f"No stack: {path}: {why}." for path, why in found.others.items()]
    if lines:
        yield Note(lines)


def _stack(tree: attention.Tree, chain: stacks.Chain) -> Any:
    blocks, first = chain.blocks, chain.calls[0]
    item: dict[str, Any] = {
        "path": chain.path,
        "block": blocks[0] if len(blocks) == 1 else blocks,
        "streams": chain.streams,
        "returns": chain.returns,
        "each": chain.each,
        "attention": _kinds(tree, chain),
        "feed_forward": _within(chain, {c: attention.feed_forwards(tree, c) for c in chain.calls}),
        "after_attention": probes.after_attention(tree, chain, _attention_of(tree, chain, first)),
    }
    notes = [question(text, decisive=True) for text in chain.questions]
    known = {name.removesuffix("?") for name in item["attention"]}
    notes += [
        question(
            f"{name} of a block is None with this config. If it is attention with another, add it "
            f'as "{name}?" with its kind.'
        )
        for name in sorted(_absent(chain) - known)
    ]
    kept = {key: value for key, value in item.items() if value}
    return Noted(kept, notes) if notes else kept


def _absent(chain: stacks.Chain) -> set[str]:
    return {name for call in chain.calls for name in attention.absent(call.module)}


def _kinds(tree: attention.Tree, chain: stacks.Chain) -> dict[str, Any]:
    """The kind of each attention module. What some blocks go without, all may in a checkpoint."""
    absent, kinds = _absent(chain), {}
    for call in chain.calls:
        for one in _attention_of(tree, chain, call):
            name = one.path.removeprefix(f"{call.path}.")
            kinds.setdefault(f"{name}?" if name in absent else name, one.kind)
    return kinds


def _within(chain: stacks.Chain, paths: dict[Call, list[str]]) -> list[str]:
    names = (path.removeprefix(f"{call.path}.") for call in chain.calls for path in paths[call])
    return list(dict.fromkeys(names))


def _attention_of(
    tree: attention.Tree, chain: stacks.Chain, call: Call
) -> list[attention.Attention]:
    streams = [call.arguments[name] for name in chain.streams if name in call.arguments]
    return attention.attentions(tree, call, streams)


def _unet(levels: unets.Levels) -> Entry:
    value = {
        "down": _one_or_all(levels.down),
        "middle": levels.middle,
        "up": _one_or_all(levels.up),
        "layers": levels.layers,
        "skips": levels.skips,
        "downsamplers": _one_or_all(levels.downsamplers),
    }
    asked = not levels.layers and not levels.nested
    text = "layers: which lists within a block run in turns?"
    notes = [question(text, decisive=True)] if asked else []
    return Entry("unet", {key: item for key, item in value.items() if item}, notes)


def _one_or_all(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def _outside(seen: Seen) -> Iterator[Entry]:
    """Attention and feed-forward of a model without stacks, by patterns."""
    study, tree, root = seen.study, seen.tree, seen.study.base.calls[0]
    kinds = {
        one.path: one.kind
        for one in attention.attentions(tree, root, [])
        if one.queries is None or study.changed(one.call, one.queries, study.content)
    }
    fed = unets.patterns(study.model, dict.fromkeys(attention.feed_forwards(tree, root), "self"))
    if kinds:
        yield Entry("attention", unets.patterns(study.model, kinds))
    if fed:
        yield Entry("feed_forward", list(fed))


def _looks_like_unet(model: nn.Module) -> bool:
    names = ("down_blocks", "up_blocks")
    return all(isinstance(getattr(model, name, None), nn.ModuleList) for name in names)
