"""Writes docs/cli.md from the parser of the `autocache` command: `python tools/cli_page.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from autocache.cli.main import build_parser
from autocache.cli.parser import every, examples_of, subcommands

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """\
<!-- Written by tools/cli_page.py from the parser; change the help of the commands instead. -->

# Command line

`autocache COMMAND --help` says all of this too. Every command takes `--debug`, before its name or
after it. What a command finds goes to standard output, with `--json` as one JSON document; what it
says on the way goes to standard error.

| exit status | |
|---|---|
| 0 | done |
| 1 | what the command looks for was found to be wrong: a spec is malformed, a check failed |
| 2 | a wrong word on the command line or an error, which is said in a line on standard error |
| 130 | interrupted |

`autocache run` ends with the status of its script.
"""


def page() -> str:
    """The page, as Markdown."""
    parsers = [one for one in every(build_parser()) if not subcommands(one)]
    return "\n".join([HEAD, *(line for one in parsers for line in _section(one))])


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {parser.prog}\n"
    yield f"{parser.description}\n"
    # One by one and not as a block: they stand for models and prompts that a reader has.
    yield from (f"- `{line}`" for line in examples_of(parser))
    yield ""
    rows = [_row(parser, action) for action in parser._actions if _listed(action)]
    if rows:
        yield from ["| argument | |", "|---|---|", *rows, ""]


def _listed(action: argparse.Action) -> bool:
    return not {"--help", "--debug"} & set(action.option_strings)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = action.metavar or (None if action.option_strings else action.dest)
    if value is None and action.choices is not None:
        value = ",".join(map(str, action.choices))
    shown = f"`{value}`" if value and action.nargs != 0 else ""
    formatter = parser._get_formatter()
    said = formatter._expand_help(action).replace("|", "\\|")
    repeat = "" if action.nargs not in ("*", "+") else " ..."
    return f"| {' '.join(filter(None, [names, shown]))}{repeat} | {said} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
