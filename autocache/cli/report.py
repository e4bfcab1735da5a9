"""`autocache report`: a page or figures from statistics that were written as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autocache.cli.parser import examples


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="make a page or figures of saved statistics",
        description="Reads a JSON report (AUTOCACHE_REPORT=report.json, autocache.report) or "
        "statistics (AUTOCACHE_STATS), and writes one HTML page that needs no network, figures as "
        "PNG, or JSON again, by the ending of the file to write.",
        epilog=examples(
            "autocache report stats.json -o report.html",
            "autocache report report.json -o figures.png",
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON report, or statistics")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: FILE, ending in .html"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read, write, and say what was written."""
    from autocache.reporting.document import read
    from autocache.reporting.write import checked, write

    path = checked(options.output or options.file.with_suffix(".html"))
    print(f"report: {write(read(options.file), path)}", file=sys.stderr)
