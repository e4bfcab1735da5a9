"""What a search is of, in plain values: a storage refuses to go on with another one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from autocache.tuning.made_for import MadeFor

if TYPE_CHECKING:
    from autocache.tuning.workload import Workload


OWN = {"models", "scheduler"}
"""What of a pipeline stays as it is whatever it draws."""


def identity(workload: Workload, **asked: Any) -> dict[str, Any]:
    """The pipeline by its configuration, the inputs and their noise, and what else is asked.

    Weights are not looked at: a search on other weights of one configuration is for its caller to
    name.
    """
    made_for = MadeFor.of(workload.pipe)
    told = {
        # The last generation's steps and guidance are not the pipeline's own.
        "made_for": made_for.model_dump(by_alias=True, mode="json", include=OWN),
        "inputs": workload.inputs,
        "call": workload.call,
        "seed": workload.seed,
        "batch": workload.batch,
        **asked,
    }
    # Of what has no plain value, a picture given as an input, the kind has to do.
    return json.loads(json.dumps(told, default=lambda value: type(value).__qualname__))


def digest(told: Any) -> str:
    """A short name for it."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
