"""The recorded arguments of the block classes' forward are the live ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from autocache.authoring.checks.subject import NotApplicable, Subject
from autocache.authoring.instance import proof_of
from autocache.spec.bind import signature


def signatures(subject: Subject) -> Iterator[str]:
    """Every block class of the tiny model has its signature in the proof, and it is up to date."""
    recorded = proof_of(subject.spec).signatures
    blocks = [block for stack in subject.bound.stacks for block in stack.blocks]
    live = {type(block).__name__: type(block) for block in blocks}
    if not live and not recorded:
        raise NotApplicable("there are no block stacks")
    for name in live.keys() - recorded.keys():
        yield f"{name} is not recorded; add {name}: [{', '.join(signature(live[name]).names)}]"
    modules = {type(subject.model).__module__, *(cls.__module__ for cls in live.values())}
    for name, names in recorded.items():
        # Variants that the tiny model is not made of are found beside those it is made of.
        found = (getattr(sys.modules[module], name, None) for module in modules)
        cls = live.get(name) or next((other for other in found if other is not None), None)
        if cls is None:
            yield f"{name} is recorded, but the tiny model has no such block"
        elif tuple(names) != signature(cls).names:
            yield (
                f"{name}.forward takes [{', '.join(signature(cls).names)}], "
                f"recorded is [{', '.join(names)}]"
            )
