"""Which block lists are stacks of the main stream, and how the streams go through them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from autocache.authoring import source
from autocache.authoring.study import Study, members
from autocache.authoring.trace import Call
from autocache.spec.bind import signature

_REFINER = re.compile(r"refine", re.IGNORECASE)
_SECOND = re.compile(r"enc|context|text|txt|cond|und|aud", re.IGNORECASE)


@dataclass(eq=False)
class Chain:
    """One block list: its calls in order, and its streams as (name of the result, argument)."""

    path: str
    calls: list[Call]
    site: source.Site | None
    links: list[tuple[str, str]]
    each: bool = False
    questions: list[str] = field(default_factory=list)

    @property
    def blocks(self) -> list[str]:
        """The names of the block classes, in the order they appear."""
        return list(dict.fromkeys(type(call.module).__name__ for call in self.calls))

    @property
    def streams(self) -> list[str]:
        return [argument for _, argument in self.links]

    @property
    def returns(self) -> str | list[str | None]:
        """What a block returns, the way a spec says it."""
        items: list[str | None] = [None] * max(call.items for call in self.calls)
        for result, argument in self.links:
            index, nested, _ = result.partition(".")
            items[int(index)] = argument.partition(".")[0] if nested else argument
        return items[0] or "" if self.calls[0].bare else items


@dataclass
class Found:
    """The stacks of a model in the order they run, and why other lists are none."""

    stacks: list[Chain]
    others: dict[str, str]


def find(study: Study) -> Found:
    """The stacks of a model that ran."""
    stacks: list[Chain] = []
    others: dict[str, str] = {}
    by_depth: dict[int, list[Chain]] = {}
    for chain in _chains(study):
        by_depth.setdefault(len(list(_callers(chain.calls[0]))), []).append(chain)
    for depth in sorted(by_depth):
        for chain in by_depth[depth]:
            reason = _reason_against(study, chain)
            if reason is None:
                stacks.append(chain)
            else:
                others[chain.path] = reason
        if stacks:
            # What is run further down belongs to a part of the model beside these.
            break
    _mark_interleaved(stacks)
    for chain in stacks:
        _order(study, chain)
        chain.each = chain.each or _looks_back(chain)
        chain.each = chain.each or (isinstance(chain.returns, list) and None in chain.returns)
    return Found(stacks, others)


def _chains(study: Study) -> Iterator[Chain]:
    """Every list whose blocks hand something on to the next one, in the order they run."""
    lists = members(study.model)
    groups: dict[str, list[Call]] = {}
    for call in study.base.calls:
        if call.path in lists and not any(caller.path in lists for caller in _callers(call)):
            groups.setdefault(lists[call.path], []).append(call)
    for path, calls in groups.items():
        caller = calls[0].caller
        if caller is None or any(call.caller is not caller for call in calls):
            # Its blocks are parts of several things.
            continue
        relative = path.removeprefix(f"{caller.path}.") if caller.path else path
        site = source.of(type(caller.module), relative)
        links = _links(path, calls, site)
        if links.found:
            yield Chain(path, calls, site, links.found, each=not links.always)


def _callers(call: Call) -> Iterator[Call]:
    while call.caller is not None:
        call = call.caller
        yield call


@dataclass(frozen=True)
class _Links:
    """Which result of a block is which argument of the next, as (result, argument)."""

    found: list[tuple[str, str]]
    always: bool = True
    """Whether it is so from every block to the next."""


def _links(name: str, calls: list[Call], site: source.Site | None) -> _Links:
    steps = [(one, two) for one, two in pairwise(calls) if _index(name, two) > _index(name, one)]
    handed: Counter[tuple[str, str]] = Counter()
    alike: Counter[tuple[str, str]] = Counter()
    for one, two in steps:
        for argument, value in two.arguments.items():
            for result, left in one.output.items():
                if (name, one.path, result) in value.marks:
                    handed[result, argument] += 1
                    alike[result, argument] += value.tensor is left.tensor
                    alike[result, argument] += value.shape == left.shape
    written = _written(calls[0], site)
    whole = [pair for pair, count in handed.items() if count == _possible(steps, *pair)]
    whole += [pair for pair in written if pair not in whole and not _contradicted(pair, handed)]
    always = bool(whole)
    if not whole:
        whole = [pair for pair in written if handed[pair] * 2 >= _possible(steps, *pair) > 0]
    order = list(calls[0].arguments)
    whole.sort(key=lambda pair: (pair not in written, -alike[pair], _at(order, pair[1])))
    links: dict[str, str] = {}
    for result, argument in whole:
        if result not in links and argument not in links.values():
            links[result] = argument
    return _Links(sorted(links.items(), key=lambda link: _at(order, link[1])), always)


def _possible(steps: list[tuple[Call, Call]], result: str, argument: str) -> int:
    return sum(result in one.output and argument in two.arguments for one, two in steps)


def _contradicted(pair: tuple[str, str], handed: Counter[tuple[str, str]]) -> bool:
    """Whether the trace saw the result, the argument, or a part of them, in another role."""
    seen = (zip(pair, other, strict=True) for other in handed)
    return any(a == b or b.startswith(f"{a}.") for roles in seen for a, b in roles)


def _written(call: Call, site: source.Site | None) -> list[tuple[str, str]]:
    """The links that the source names: a variable that is passed and assigned."""
    if site is None:
        return []
    names = signature(type(call.module)).names
    pairs = ((str(i), site.argument_of(name, names)) for i, name in enumerate(site.targets))
    return [(result, argument) for result, argument in pairs if argument is not None]


def _looks_back(chain: Chain) -> bool:
    """Whether a block is also given what one before the last returned: a long skip connection."""
    for one, two in pairwise(chain.calls):
        marks = {m for value in two.arguments.values() for m in value.marks if m[0] == chain.path}
        onwards = _index(chain.path, two) > _index(chain.path, one)
        if onwards and any(path != one.path for _, path, _ in marks):
            return True
    return False


def _index(name: str, call: Call) -> tuple[int, ...]:
    return tuple(map(int, call.path.removeprefix(f"{name}.").split(".")))


def _at(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _reason_against(study: Study, chain: Chain) -> str | None:
    """Why a list is no stack of the main stream; None for one that is."""
    first = chain.calls[0]
    if _REFINER.search(chain.path):
        return "prepares a stream before the blocks run, as its name says"
    if study.content is not None and not _leaves_with_latent(study, chain):
        return f"its stream ({', '.join(chain.streams)}) does not depend on the latent"
    site = chain.site
    if site is not None and not site.replaces:
        plain = [*site.positional, *(variable for _, variable in site.keywords)]
        if any(plain):
            return "what it returns is added to a stream and takes the place of none"
    if study.content is None:
        chain.questions.append(f"does {chain.path} carry the latent? {first.path} was not tested")
    return None


def _leaves_with_latent(study: Study, chain: Chain) -> bool:
    last = chain.calls[-1]
    left = [result for result, _ in chain.links if result in last.output]
    return any(study.changed(last, result, study.content, out=True) for result in left)


def _sees_latent(study: Study, chain: Chain, stream: str) -> bool:
    first = chain.calls[0]
    return stream in first.arguments and study.changed(first, stream, study.content)


def _order(study: Study, chain: Chain) -> None:
    """The latent stream first."""
    seen = {stream: _sees_latent(study, chain, stream) for stream in chain.streams}
    named = {stream: bool(_SECOND.search(stream)) for stream in chain.streams}
    chain.links.sort(key=lambda link: (not seen[link[1]], named[link[1]]))
    if len(seen) > 1 and len({(seen[s], named[s]) for s in chain.streams}) == 1:
        chain.questions.append("which stream is the latent one? It goes first in `streams`")


def _mark_interleaved(stacks: list[Chain]) -> None:
    """Lists that run in turns on one stream have a residual per block."""
    for one in stacks:
        for two in stacks:
            first, last = one.calls[0].order, one.calls[-1].order
            if one is not two and any(first < call.order < last for call in two.calls):
                one.each = two.each = True
