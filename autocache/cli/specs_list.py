"""`autocache specs list` and `show`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from autocache.cli.parser import add_json, examples
from autocache.errors import SpecError
from autocache.spec import registry
from autocache.spec.registry import SpecInfo


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions."""
    listing = actions.add_parser(
        "list",
        help="the specs there are, and where each comes from",
        description="Lists each spec: its class, what it was proven on, whether it is bundled, of "
        "an installed package or of AUTOCACHE_SPECS, and its file.",
        epilog=examples("autocache specs list", "autocache specs list --json"),
    )
    add_json(listing)
    listing.set_defaults(run=run_list)
    showing = actions.add_parser(
        "show",
        help="what a spec says",
        description="Prints the facts of one spec: its blocks, streams, attention, guidance, "
        "probes, calibrated tables and their sources.",
        epilog=examples(
            "autocache specs show FluxTransformer2DModel",
            "autocache specs show my_specs/Mine.yaml --json",
        ),
    )
    showing.add_argument("name", metavar="SPEC", help="a class that has a spec, or a file")
    add_json(showing)
    showing.set_defaults(run=run_show)


def run_list(options: argparse.Namespace) -> None:
    """Print each spec's name, on what it was proven, its layer, its class and its file."""
    found = [_described(info) for info in registry.specs()]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (
            entry["name"],
            entry["proven_on"] or ("malformed" if entry["problems"] else "not proven"),
            entry["layer"],
            entry["model"],
            entry["file"],
        )
        for entry in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _described(info: SpecInfo) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": info.name,
        "model": info.model,
        "layer": info.layer,
        "file": str(info.file),
        "proven_on": None,
        "problems": [],
    }
    try:
        spec = registry.resolve(info.file, None)
    except SpecError as error:  # the others are listed all the same
        entry["problems"] = str(error).splitlines()
    else:
        entry["proven_on"] = spec.proof.package if spec.proof else None
    return entry


def run_show(options: argparse.Namespace) -> None:
    """Print the facts of one spec."""
    from autocache.authoring.overview import as_text, overview

    if options.json:
        print(json.dumps(overview(options.name), indent=2))
    else:
        print(as_text(options.name))
