"""The `autocache` command: its parser and its one error boundary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from autocache import __version__
from autocache.cli import (
    calibrate,
    compare,
    completion,
    demo,
    doctor,
    report,
    run,
    specs,
    strategies,
    tune,
)
from autocache.cli.parser import Parser, examples
from autocache.errors import AutocacheError

COMMANDS = (run, demo, compare, report, tune, calibrate, strategies, specs, doctor, completion)


def build_parser() -> Parser:
    """The parser with every subcommand."""
    parser = Parser(
        prog="autocache",
        description="Training-free cache acceleration of diffusion models.",
        epilog=examples(
            "autocache run --strategy auto infer.py --steps 28",
            "autocache demo",
            "autocache doctor --model my_pipeline",
        ),
    )
    parser.set_defaults(debug=False)
    parser.add_argument("--version", action="version", version=f"autocache {__version__}")
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
    except BrokenPipeError:
        # Who reads has seen enough, as `head` does; what Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("autocache: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        print(f"autocache: error: {_said(error)}", file=sys.stderr)
        return 2


def _said(error: Exception) -> str:
    """An error of ours as it is; one that nobody foresaw in one line, with how to see more."""
    if isinstance(error, AutocacheError):
        return str(error)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{words} (--debug shows where)"
