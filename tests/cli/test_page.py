"""docs/cli.md says what the parser says."""

from __future__ import annotations

from autocache.cli.main import build_parser
from autocache.cli.parser import every, subcommands
from scripts import tool

cli_page = tool("cli_page")


def test_the_page_is_what_the_parser_says():
    """Run `python tools/cli_page.py` after a change of any command's help."""
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page()


def test_every_command_and_option_is_on_it():
    """Each in its own section."""
    sections = dict(part.split("\n", 1) for part in cli_page.page().split("\n## ")[1:])
    parsers = [parser for parser in every(build_parser()) if not subcommands(parser)]
    assert list(sections) == [parser.prog for parser in parsers]
    for parser in parsers:
        for name in set(parser._option_string_actions) - {"-h", "--help", "--debug"}:
            assert f"`{name}`" in sections[parser.prog]
