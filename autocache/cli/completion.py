"""`autocache completion`: what a shell sources to complete commands, options and names."""

from __future__ import annotations

import argparse

from autocache.cli.parser import Parser, every, examples

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("FILE", "PATH", "SCRIPT", "MODEL_OR_SCRIPT", "PICTURE")
FOLDERS = ("DIR", "MODEL")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print what a shell sources to complete the command line",
        description='For bash put `eval "$(autocache completion bash)"` into ~/.bashrc. For zsh '
        "write it to a file named _autocache in a folder of fpath. For tcsh write it to a file "
        "that ~/.tcshrc sources.",
        epilog=examples("autocache completion bash", "autocache completion zsh"),
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell: %(choices)s", metavar="SHELL")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print it."""
    import shtab

    from autocache.cli.main import build_parser

    parser = build_parser()
    _name_what_completes(parser)
    print(shtab.complete(parser, shell=options.shell))


def _name_what_completes(parser: Parser) -> None:
    """Say of every argument, by what its help calls it, what it may be.

    Choices are put in for the shell only: as choices of the parser, the values that AUTOCACHE
    takes, with parameters or joined by a plus sign, would be refused.
    """
    import shtab

    from autocache import strategy
    from autocache.spec import registry

    known = {
        "STRATEGY": strategy.names(),
        "SPEC": sorted({info.name for info in registry.specs()}),
    }
    for each in every(parser):
        for action in each._actions:
            name = action.metavar if isinstance(action.metavar, str) else ""
            if name in known:
                action.choices = known[name]
            elif name in FILES:
                vars(action)["complete"] = shtab.FILE
            elif name in FOLDERS:
                vars(action)["complete"] = shtab.DIRECTORY
