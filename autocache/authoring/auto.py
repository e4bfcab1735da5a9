"""A spec for a model that nobody has described, drafted and proven in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autocache.authoring.draft import drafted
from autocache.authoring.instance import model_of
from autocache.authoring.target import Target, resolve
from autocache.authoring.verify import verify
from autocache.errors import SpecError, UnknownModelError
from autocache.runtime.intercept import original_class
from autocache.spec.loader import loads
from autocache.spec.schema import Spec

logger = logging.getLogger("autocache")

_known: dict[tuple[type, str], Spec] = {}


def auto(model: Any) -> Spec:
    """Draft the spec of a live model's class, and prove it on the tiny model it was drafted from.

    What the spec rests on, and what it leaves open, is said in the log, once for a class and
    config. The model itself is neither run nor changed.

    Raises UnknownModelError with the draft's questions where nobody knows what may be skipped
    before they are answered, and SpecError with what failed where the draft does not prove right.
    """
    target = resolve(model)
    target = replace(target, cls=original_class(target.cls))
    if not target.config:
        return _proven(target)
    key = target.cls, json.dumps(target.config, sort_keys=True, default=repr)
    if key not in _known:
        _known[key] = _proven(target)
    return _known[key]


def _proven(target: Target) -> Spec:
    name = target.cls.__name__
    draft = drafted(target)
    if any(question.decisive for question in draft.questions):
        raise UnknownModelError(
            f"no spec describes {target.name}, and none can be drafted that is certain:\n"
            f"{_listed(draft.questions)}\n"
            f"answer them in a file: `autocache specs draft {target.name} -o {name}.yaml`, then "
            f"`autocache specs verify {name}.yaml`, and pass spec='{name}.yaml'"
        )
    spec = loads(draft.text, f"{name}.yaml")
    basis = _basis(spec)
    open_ = f"; left open:\n{_listed(draft.questions)}" if draft.questions else ""
    logger.warning(
        "spec of %s drafted in memory: %s; %s%s\n"
        "`autocache specs draft %s -o %s.yaml` writes it to a file to be checked and kept",
        *(name, _content(spec), basis, open_, target.name, name),
    )
    return spec


def _basis(spec: Spec) -> str:
    """What was proven of a draft. Raises SpecError when something in it is wrong."""
    try:
        model_of(spec)
    except SpecError as error:
        return f"drafted from a copy of the model, and not proven, since {error}"
    (report,) = verify(spec, pipelines=False)
    if report.failed:
        raise SpecError(f"the spec drafted for {spec.model} does not prove right:\n{report}")
    passed = (check.name for check in report.checks if check.outcome == "passed")
    return f"proven on a tiny model: {', '.join(passed)}"


def _content(spec: Spec) -> str:
    stacks = [
        f"{stack.path} ({' or '.join(stack.block_names)}: {', '.join(stack.streams)})"
        for stack in spec.stacks
    ]
    levels = ["the levels of a UNet"] if spec.unet else []
    kinds = {kind for stack in spec.stacks for kind in stack.attention.values()}
    kinds.update(spec.attention.values())
    attention = [f"attention {', '.join(sorted(kinds))}"] if kinds else []
    return "; ".join([*stacks, *levels, *attention]) or "nothing that can be skipped within it"


def _listed(questions: Sequence[str]) -> str:
    return "\n".join(f"  {question.removeprefix('QUESTION: ')}" for question in questions)
