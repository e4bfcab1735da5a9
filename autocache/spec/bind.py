"""Joining a spec to a live model, after checking every fact in it against that model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from autocache.errors import DoesNotApplyError, ParameterError, SpecError, nearest
from autocache.spec import checks, drift, levels
from autocache.spec.flow import Flow
from autocache.spec.loader import line_of
from autocache.spec.modules import Signature, named, present, signature, submodule
from autocache.spec.schema import Kind, Spec, Stack


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
        return [(p, m, kinds[name]) for name, p, m in present(self.blocks[index], kinds)]

    def feed_forward(self, index: int) -> list[tuple[str, nn.Module]]:
        """The feed-forward modules that a block has, with their paths within it."""
        return [(p, m) for _, p, m in present(self.blocks[index], self.spec.feed_forward)]


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

    @property
    def feed_forward_count(self) -> int:
        """The number of feed-forward modules that the spec names."""
        inside = (s.feed_forward(n) for s in self.stacks for n in range(len(s.blocks)))
        return sum(map(len, inside)) + len(self.feed_forward)

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


def bind(spec: Spec, model: nn.Module) -> Bound:
    """Find the modules a spec speaks of.

    Raises SpecError, with one line `file:line:column: message` per problem, when a fact in the
    spec does not hold for the model.
    """
    problems = [*checks.of_arguments(spec, type(model)), *checks.of_modules(spec, model)]
    stacks: list[BoundStack] = []
    offset = 0
    for i, stack in enumerate(spec.stacks):
        modules = submodule(model, stack.path)
        if not isinstance(modules, nn.ModuleList):
            problems.append((("stacks", i, "path"), checks.no_stack(stack.path, modules, model)))
            continue
        blocks = tuple(modules)
        binders = tuple(signature(type(block)) for block in blocks)
        stacks.append(BoundStack(stack, stack.path, blocks, offset, binders, Flow(stack)))
        offset += len(blocks)
        problems.extend(checks.of_blocks(("stacks", i), stack, blocks))
    first = stacks[0].blocks[:1] if stacks and stacks[0].spec is spec.stacks[0] else ()
    for name, probe in spec.probes.items():
        problems.extend(checks.of_probe(("probes", name), probe, model, first))
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
