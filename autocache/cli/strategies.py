"""`autocache strategies`: the strategies there are."""

from __future__ import annotations

import argparse
import json

from autocache import api


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("strategies", help="list the strategies")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print each strategy's name and summary."""
    found = [{"name": info.name, "summary": info.summary} for info in api.strategies()]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    width = max((len(entry["name"]) for entry in found), default=0)
    for entry in found:
        print(f"{entry['name']:<{width}}  {entry['summary']}")
