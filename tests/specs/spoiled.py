"""A spec with nearly every key, and ways to spoil it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import yaml

GOOD = """\
schema: 1
model: package.module:Toy
timestep: t
timestep_scale: 1000
latent: x
latent_layout: BCHW
stacks:
  - path: blocks
    block: [Block, Other]
    streams: [x, state.text]
    returns: [state, x, null]
    each: true
    attention: {attn: self}
    feed_forward: [mlp]
    after_attention: norm
unet: {down: downs, layers: [resnets]}
compute_when: {mode: [write, 1, true]}
attention: {"refiner.*.attn": self}
invariant: [context]
probes:
  argument: {argument: temb}
  call: {call: {module: norm, arguments: {x: x}, output: 0}}
guidance: {A: batched, B: {style: sequential, branches: [cond, uncond]}}
teacache:
  - {id: a, match: {layers: [2, 3]}, checkpoints: [o/r], probe: call, coefficients: [1.0, -2],
     thresholds: [0.1], steps: 50, provenance: official, source: here}
magcache:
  - {id: a, ratios: {all: [1.0, 0.9]}, threshold: 0.1, retention: 0.2, source: here}
presets:
  dit_block: [{match: {layers: 2}, parameters: {step_interval: 2}, source: here}]
proof:
  package: diffusers 0.42.1
  signatures: {Block: [x, temb]}
  config: {layers: 2, size: [1, 2]}
  inputs: {x: {shape: [1, 2]}, t: {shape: [1], values: [1]}}
  pipelines: {A: {components: {scheduler: {class: S, config: {}}}, call: {steps: 2}}}
"""

WRONG: list[Any] = [
    None, True, 0, -1, 2**70, 1.5, float("nan"), float("inf"), "", "text", "a.b:C", "\x00",
    "é" * 300, [], [None], [[]], ["a", 1], {}, {"a": None}, {"": ""}, {"a": {"b": [1, {"c": 2}]}},
]  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every part of a value is."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*at, key))


def replaced(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    """A copy with one part replaced."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return value


PATHS = list(paths(yaml.safe_load(GOOD)))
