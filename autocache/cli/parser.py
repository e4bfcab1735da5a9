"""The parser of every command: one-line errors with the nearest name, `--debug`, and examples."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

EXAMPLES = "examples:\n"


class _Help(argparse.HelpFormatter):
    """Wraps what is prose, and leaves the lines of examples alone."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser whose subcommands, which argparse makes of the same class, share its conventions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(*args, **kwargs)
        # Suppressed, so that a subcommand does not undo what stood before its name.
        self.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the traceback of an error",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with the nearest option where one is unknown."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            used = _used(self, options)
            # A value may stand beside an unknown option; the option is what was misspelt.
            word = next((one for one in unknown if one.startswith("-")), unknown[0])
            near = _near(word.partition("=")[0], list(used._option_string_actions))
            used.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return options

    def error(self, message: str) -> NoReturn:
        """One line on standard error, and exit status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is not None and value not in choices:
            near = _near(str(value), [str(choice) for choice in choices])
            near = near or f"; expected one of: {', '.join(map(str, choices))}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{near}")


def examples(*lines: str) -> str:
    """The end of a command's help: what may be typed as it stands."""
    return EXAMPLES + "\n".join(f"  {line}" for line in lines)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`: the result on standard output as one JSON document."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's subcommands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def every(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of all subcommands below it."""
    yield parser
    for below in subcommands(parser).values():
        yield from every(below)


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    """The examples in the help of a parser."""
    text = parser.epilog or ""
    if not text.startswith(EXAMPLES):
        return []
    return [line.strip() for line in text[len(EXAMPLES) :].splitlines()]


def _used(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the subcommand that the options are those of."""
    for name in ("command", "action"):
        parser = subcommands(parser).get(getattr(options, name, ""), parser)
    return parser


def _near(word: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
