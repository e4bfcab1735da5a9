"""The levels of a UNet, seen by which outputs of one list come back, last first, in another."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import TypeVar

from torch import nn

from autocache.authoring.attention import Tree
from autocache.authoring.provenance import Mark
from autocache.authoring.study import Study, members
from autocache.authoring.trace import Call

K = TypeVar("K", bound=str)
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass
class Levels:
    """What a spec says of a UNet."""

    down: list[str]
    up: list[str]
    middle: str | None
    layers: list[str]
    nested: bool
    """Whether a block is a list itself."""
    downsamplers: list[str] = field(default_factory=list)
    skips: str = "layer"


Family = dict[str, list[Call]]
"""Lists that run in turns, and the calls of what is in them."""


def find(study: Study, tree: Tree) -> Levels | None:
    """The levels of the model that ran; None when it is no UNet."""
    for down, up in permutations(_families(study), 2):
        used = _crossing(down, up)
        if used:
            downs, ups = _ordered(down), _ordered(up)
            layers, samplers = _lists_within(tree, downs, ups)
            skips = "layer" if max(map(len, used.values())) > 1 else "block"
            middle = _between(study, downs[-1], ups[0])
            paths = (call.path.removeprefix(f"{name}.") for name in down for call in down[name])
            nested = any("." in path for path in paths)
            return Levels(list(down), list(up), middle, layers, nested, samplers, skips)
    return None


def _families(study: Study) -> list[Family]:
    """The lists that the model itself runs, those together whose calls overlap in time."""
    lists = members(study.model)
    root = study.base.calls[0]
    families: list[Family] = []
    for call in study.base.calls:
        if call.caller is not root or call.path not in lists:
            continue
        name = lists[call.path]
        known = next((family for family in families if name in family), None)
        if known is None:
            families.append(known := {})
        known.setdefault(name, []).append(call)
    merged: list[Family] = []
    for family in families:
        if merged and _ordered(merged[-1])[-1].order > _ordered(family)[0].order:
            merged[-1].update(family)
        else:
            merged.append(family)
    return merged


def _ordered(family: Family) -> list[Call]:
    return sorted((call for calls in family.values() for call in calls), key=lambda c: c.order)


def _level(name: str, path: str) -> int:
    return int(path.removeprefix(f"{name}.").partition(".")[0])


def _crossing(down: Family, up: Family) -> dict[int, set[tuple[str, ...]]]:
    """What of each level up blocks take beside the stream, if they take the last levels first."""
    last_down = _ordered(down)[-1]
    if not any(m[0] in down for v in last_down.arguments.values() for m in v.marks):
        return {}
    seen: set[Mark] = set()
    arrivals: list[list[int]] = []
    used: dict[int, set[tuple[str, ...]]] = {}
    by_level: dict[int, set[Mark]] = {}
    for name, calls in up.items():
        for call in calls:
            marks = {m for v in call.arguments.values() for m in v.marks if m[0] in down}
            by_level.setdefault(_level(name, call.path), set()).update(marks)
    for level in sorted(by_level):
        new = by_level[level] - seen
        arrivals.append([_level(mark[0], mark[1]) for mark in new])
        for mark in by_level[level]:
            # The first result is the stream itself, mostly.
            if mark[2] != "0" or len(down) > 1:
                used.setdefault(_level(mark[0], mark[1]), set()).add(mark[2:])
        seen |= new
    if len(arrivals) < 2 or not arrivals[0] or not arrivals[-1]:
        return {}
    first, last = (sum(group) / len(group) for group in (arrivals[0], arrivals[-1]))
    return (used or {0: set()}) if first > last else {}


def _between(study: Study, last: Call, first: Call) -> str | None:
    """The module that runs between the down and the up path."""
    for call in study.base.calls:
        if call.caller is last.caller and last.order < call.order < first.order:
            fed = any(m[1:2] == (last.path,) for v in call.arguments.values() for m in v.marks)
            if fed and len(list(call.module.children())) > 1:
                return call.path
    return None


def _lists_within(tree: Tree, downs: list[Call], ups: list[Call]) -> tuple[list[str], list[str]]:
    """The lists that make up layers, in the order they run, and what changes the resolution."""
    rows: list[list[str]] = []
    resizing: dict[str, bool] = {}
    samplers: dict[str, None] = {}
    for block in (*downs, *ups):
        rows.append([])
        for call in tree.below(block):
            if call.caller is not block:
                continue
            inner = call.path.removeprefix(f"{block.path}.").partition(".")[0]
            listed = isinstance(getattr(block.module, inner, None), nn.ModuleList)
            changes = _resizes(call)
            resizing[inner] = resizing.get(inner, True) and (changes or not listed)
            if changes and block in downs and not inner.isdecimal():
                samplers[inner] = None
            if listed:
                # A layer's last ones: what runs before the first layer may be of any list.
                rows[-1] = [name for name in rows[-1] if name != inner] + [inner]
    # The block with the most lists tells their order best.
    order = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    layers = [name for name in order if not resizing[name]]
    return layers, [name for name in samplers if name not in layers]


def _resizes(call: Call) -> bool:
    given = next((v.shape for v in call.arguments.values() if len(v.shape) > 2), None)
    left = next((v.shape for v in call.output.values()), None)
    if given is None or left is None or len(given) != len(left) or _tokens(call):
        return False
    return given[-1] != left[-1]


def _tokens(call: Call) -> bool:
    return len(next(iter(call.arguments.values())).shape) == 3 and not _convolves(call.module)


def _convolves(module: nn.Module) -> bool:
    return any("conv" in type(inner).__name__.lower() for inner in module.modules())


def patterns(model: nn.Module, kinds: Mapping[str, K]) -> dict[str, K]:
    """Patterns that name exactly these modules, each those of one kind."""
    every = [name for name, _ in model.named_modules()]
    found: dict[str, K] = {}
    for last in dict.fromkeys(_last(path) for path in kinds):
        mine = {path: kind for path, kind in kinds.items() if _last(path) == last}
        for pattern, kind in _patterns_for(every, mine, last):
            found[pattern] = kind
    return found


def _patterns_for(every: list[str], mine: Mapping[str, K], last: str) -> Iterator[tuple[str, K]]:
    """One pattern if all are of one kind, otherwise one for each part that tells them apart."""
    rest = dict(mine)
    parts = [part for path in mine for part in path.split(".")[:-1] if not part.isdecimal()]
    candidates = [f"*.{last}", last, *(f"*.{p}.*.{last}" for p in dict.fromkeys(reversed(parts)))]
    candidates += [f"{p}.*.{last}" for p in dict.fromkeys(parts)]
    candidates += dict.fromkeys(_INDEX.sub("*", path, count=1) for path in mine)
    for pattern in candidates:
        hits = [path for path in every if fnmatch.fnmatchcase(path, pattern)]
        kinds = {mine.get(path) for path in hits}
        if hits and len(kinds) == 1 and None not in kinds and set(hits) & set(rest):
            yield pattern, mine[hits[0]]
            for path in hits:
                rest.pop(path, None)
    yield from rest.items()


def _last(path: str) -> str:
    """The last part of a path; of an item of a list, the list and a digit."""
    head, _, last = path.rpartition(".")
    return f"{head.rpartition('.')[2]}.[0-9]" if last.isdecimal() else last


def unfolded(model: nn.Module, named: Iterable[str]) -> set[str]:
    """Every module that patterns name."""
    every = [name for name, _ in model.named_modules()]
    return {path for pattern in named for path in every if fnmatch.fnmatchcase(path, pattern)}


def folded(model: nn.Module, paths: Iterable[str]) -> list[str]:
    """Patterns with `*` for the index where every item of a list is meant."""
    wanted = set(paths)
    result: dict[str, None] = {}
    for path in paths:
        pattern = _INDEX.sub("*", path)
        if "*" in path:
            result[path] = None
            continue
        hits = {name for name, _ in model.named_modules() if _same(name, path)}
        whole = "*" in pattern and hits <= wanted and unfolded(model, [pattern]) <= wanted
        result[pattern if whole else path] = None
    return list(result)


def _same(name: str, path: str) -> bool:
    return _INDEX.sub("*", name) == _INDEX.sub("*", path)
