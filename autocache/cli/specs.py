"""`autocache specs`: the model specs there are."""

from __future__ import annotations

import argparse
import json

from autocache import api


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("specs", help="list the model specs")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print each spec's name, the model class it describes, and its file."""
    found = [
        {"name": spec.name, "model": spec.model, "file": str(spec.file)} for spec in api.specs()
    ]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    names = max((len(entry["name"]) for entry in found), default=0)
    models = max((len(entry["model"]) for entry in found), default=0)
    for entry in found:
        print(f"{entry['name']:<{names}}  {entry['model']:<{models}}  {entry['file']}")
