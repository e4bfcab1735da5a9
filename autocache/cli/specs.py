"""`autocache specs`: the model specs there are, and tools for those who write them."""

from __future__ import annotations

import argparse

from autocache.cli import specs_authoring, specs_list
from autocache.cli.parser import examples


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "specs",
        help="list, show, draft, validate or verify model specs",
        description="A spec is a YAML file that says where things are in a model's architecture.",
        epilog=examples("autocache specs list", "autocache specs draft FluxTransformer2DModel"),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    specs_list.add(actions)
    specs_authoring.add(actions)
