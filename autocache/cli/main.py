"""The `autocache` command: its parser and its one error boundary."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from autocache.cli import calibrate, demo, specs, strategies, tune
from autocache.errors import AutocacheError

COMMANDS = (demo, tune, calibrate, strategies, specs)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="autocache", description="Training-free cache acceleration of diffusion models."
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status.

    0 on success, 1 where a command found what it looks for to be wrong, 2 on an error, which is
    said on standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except AutocacheError as error:
        if options.debug:
            raise
        print(f"autocache: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who reads has seen enough, as `head` does; what Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("autocache: interrupted", file=sys.stderr)
        return 130
