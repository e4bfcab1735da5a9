"""`autocache demo`: the bundled pipeline without and with caching."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autocache.cli import asked
from autocache.cli.parser import add_json, examples
from autocache.cli.telling import telling
from autocache.jsonable import jsonable

WRITTEN = "where pictures, table, figures and step records go (default: %(default)s)"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="draw pictures without and with caching, and compare",
        description="Run a plain diffusers script on the bundled pipeline, once as it is and once "
        "per strategy, and write pictures, figures and step records.",
        epilog=examples(
            "autocache demo",
            "autocache demo --strategy fora:interval=3 --strategy auto --out pictures",
            "autocache demo --prompts 2 --steps 14 --json",
        ),
    )
    parser.add_argument(
        "--strategy",
        action="append",
        metavar="STRATEGY",
        help="as AUTOCACHE takes it, e.g. teacache:threshold=0.2; repeat for several "
        "(default: auto, a tuned profile, teacache, dit_block and attention)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("autocache-demo"), metavar="DIR", help=WRITTEN
    )
    parser.add_argument(
        "--prompts", type=int, default=8, metavar="N", help="pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=28, metavar="N", help="of denoising (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first noise")
    parser.add_argument("--guidance", type=float, default=1.0, help="above 1 adds a negative pass")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the demonstration, then print its table and where its files are."""
    from autocache.demo import report

    report.require()
    from rich.console import Console

    from autocache.demo.run import STRATEGIES, check
    from autocache.demo.run import run as run_demo

    check(options.prompts, options.steps)
    for strategy in options.strategy or ():
        asked.check(strategy)  # Before anything is drawn.
    # What a machine reads is alone on standard output.
    console = Console(stderr=options.json)
    # A run tells "teacache: step 3 of 28"; the run alone is worth a line of a log.
    with telling("demo", "starting", part=lambda doing: doing.rpartition(": ")[0] or doing) as tell:
        figures = run_demo(
            options.out,
            options.strategy or STRATEGIES,
            options.prompts,
            options.steps,
            seed=options.seed,
            guidance=options.guidance,
            tell=tell,
        )
    if options.json:
        print(json.dumps(jsonable(figures), indent=2))
    else:
        console.print(report.table(figures))
    console.print(f"pictures, table, figures and step records: {options.out}", soft_wrap=True)
