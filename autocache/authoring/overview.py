"""What a spec says, for a person to read or a program to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autocache.spec import registry
from autocache.spec.schema import Guidance, Probe, Spec, Stack
from autocache.spec.tables import MagCacheTable, Preset, TeaCacheTable


def overview(name: str | Path) -> dict[str, Any]:
    """All facts of a spec, ready for JSON, with its `name`, `file` and `layer`.

    `name` is that of a known spec or a file. The proof is left out but for the package, in
    `proven_on`. Raises as `autocache.patch` does for `spec=`.
    """
    spec = registry.resolve(name, None)
    facts = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"proof"})
    return {
        "name": spec.name,
        "file": str(spec.file),
        "layer": _layer(spec),
        "proven_on": spec.proof.package if spec.proof else None,
        **facts,
    }


def as_text(name: str | Path) -> str:
    """The same for a person: a line for each fact."""
    return "\n".join(_lines(registry.resolve(name, None)))


def _layer(spec: Spec) -> str:
    layers = {info.file: info.layer for info in registry.specs()}
    return layers.get(spec.file, "given") if spec.file else "given"


def _lines(spec: Spec) -> Iterator[str]:
    yield spec.model
    yield from _aligned(_head(spec))
    yield from _section("stacks", {stack.path: _stack(stack) for stack in spec.stacks})
    yield from _section("levels", _levels(spec))
    yield from _section("attention outside the stacks", spec.attention)
    yield from _section("feed-forward outside the stacks", dict.fromkeys(spec.feed_forward, ""))
    yield from _section("invariant", dict.fromkeys(spec.invariant, ""))
    yield from _section("computed in full when", _calls(spec))
    yield from _section("probes", {name: _probe(probe) for name, probe in spec.probes.items()})
    yield from _section("guidance", {name: _guidance(g) for name, g in spec.guidance.items()})
    yield from _section("teacache tables", {table.id: _table(table) for table in spec.teacache})
    yield from _section("magcache tables", {table.id: _table(table) for table in spec.magcache})
    for strategy, presets in spec.presets.items():
        rows = {_parameters(preset.parameters): _table(preset) for preset in presets}
        yield from _section(f"presets of {strategy}", rows)


def _head(spec: Spec) -> dict[str, str]:
    scale = f", times {spec.timestep_scale:g}" if spec.timestep_scale != 1 else ""
    offset = f", plus {spec.timestep_offset:g}" if spec.timestep_offset else ""
    head = {
        "file": f"{spec.file} ({_layer(spec)})",
        "proven on": spec.proof.package if spec.proof else "nothing",
        "timestep": f"{spec.timestep}{scale}{offset}" if spec.timestep else "none",
        "latent": ", ".join(filter(None, (spec.latent, spec.latent_layout))),
        "frames": spec.frames or "",
        "no blocks": spec.no_blocks or "",
        "building block": "left alone outside of pipelines" if spec.building_block else "",
    }
    return {key: value for key, value in head.items() if value}


def _stack(stack: Stack) -> str:
    parts = [
        " or ".join(stack.block_names),
        f"streams {', '.join(stack.streams)}",
        f"returns {', '.join(item or '-' for item in stack.return_items)}",
        "one residual per block" if stack.each else "",
        ", ".join(f"attention {path} ({kind})" for path, kind in stack.attention.items()),
        f"feed-forward {', '.join(stack.feed_forward)}" if stack.feed_forward else "",
    ]
    return "; ".join(filter(None, parts))


def _levels(spec: Spec) -> dict[str, str]:
    if spec.unet is None:
        return {}
    values = spec.unet.model_dump()
    return {
        key: value if isinstance(value, str) else ", ".join(value) for key, value in values.items()
    }


def _calls(spec: Spec) -> dict[str, str]:
    return {name: " or ".join(map(repr, values)) for name, values in spec.compute_when.items()}


def _probe(probe: Probe) -> str:
    (kind,) = probe.model_fields_set
    value = getattr(probe, kind)
    given = value if isinstance(value, str) else _parameters(value.model_dump(exclude_none=True))
    return f"{kind.replace('_', ' ')} {given}"


def _guidance(guidance: Guidance) -> str:
    branches = f" ({', '.join(guidance.branches)})" if guidance.branches else ""
    return f"{guidance.style}{branches}"


def _table(entry: TeaCacheTable | MagCacheTable | Preset) -> str:
    steps = getattr(entry, "steps", None) or _ratios(entry)
    fitted = getattr(entry, "fitted_on", None)
    parts = [
        ", ".join(entry.checkpoints) or "no checkpoint",
        f"or config {_parameters(entry.match)}" if entry.match else "",
        f"{steps} steps" if steps else "",
        getattr(entry, "scheduler", None) or "",
        f"borrowed, fitted on {fitted}" if fitted else "",
        f"source {entry.source}",
    ]
    return "; ".join(filter(None, parts))


def _ratios(entry: Any) -> int:
    return max(map(len, entry.ratios.values())) if isinstance(entry, MagCacheTable) else 0


def _parameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _section(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from _aligned(rows)


def _aligned(rows: Mapping[str, str]) -> Iterator[str]:
    width = min(max(map(len, rows)), 40)
    for key, value in rows.items():
        yield f"  {key:<{width}}  {value}".rstrip()
