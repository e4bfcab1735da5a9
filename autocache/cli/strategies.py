"""`autocache strategies`: the strategies there are, and what one of them does."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from autocache.cli.parser import add_json, examples
from autocache.strategy import infos, known

if TYPE_CHECKING:
    from autocache.strategy.info import StrategyInfo


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "strategies",
        help="list the strategies, or describe one",
        description="Lists every strategy with what it does, or says all about one: formula, "
        "memory, source, and its parameters with their values and defaults.",
        epilog=examples(
            "autocache strategies",
            "autocache strategies teacache",
            "autocache strategies --json",
        ),
    )
    parser.add_argument("name", nargs="?", metavar="STRATEGY", help="the strategy to describe")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print each strategy's name and summary, or all about one."""
    if options.name is not None:
        known(options.name)
    found = {info.name: info for info in infos()}
    if options.name is not None:
        _describe(found[options.name], options.json)
        return
    if options.json:
        listed = [{"name": info.name, "summary": info.summary} for info in found.values()]
        print(json.dumps(listed, indent=2))
        return
    width = max(map(len, found), default=0)
    for name, info in found.items():
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
