"""`autocache strategies`: the strategies there are, and what one of them does."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from autocache import api
from autocache.errors import UnknownStrategyError, nearest

if TYPE_CHECKING:
    from autocache.strategy.info import StrategyInfo


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("strategies", help="list the strategies, or describe one")
    parser.add_argument("name", nargs="?", help="the strategy to describe")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print each strategy's name and summary, or all about one."""
    known = {info.name: info for info in api.strategies()}
    if options.name is not None:
        if options.name not in known:
            near = nearest(options.name, known)
            raise UnknownStrategyError(f"no strategy is named {options.name!r}{near}")
        _describe(known[options.name], options.json)
        return
    if options.json:
        found = [{"name": info.name, "summary": info.summary} for info in known.values()]
        print(json.dumps(found, indent=2))
        return
    width = max((len(name) for name in known), default=0)
    for name, info in known.items():
        print(f"{name:<{width}}  {info.summary}")


def _describe(info: StrategyInfo, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(info), indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"{info.name}: {info.summary} {info.about}\n")
    for label in ("formula", "memory", "choose_it", "source"):
        console.print(f"{label.replace('_', ' ').capitalize()}: {getattr(info, label)}\n")
    table = Table("parameter", "values", "default", "meaning", box=None, pad_edge=False)
    for parameter in info.parameters.values():
        default = "to be given" if parameter.required else str(parameter.default)
        shown = (parameter.name, parameter.values, default, parameter.description)
        table.add_row(*shown)
    console.print(table)
