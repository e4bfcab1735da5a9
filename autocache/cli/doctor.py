"""`autocache doctor`: whether this environment is fit, and what in it is not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from autocache.cli.inert import inert
from autocache.cli.parser import add_json, examples

if TYPE_CHECKING:
    from autocache.cli.checks.finding import Finding

Check = Callable[[], Iterable["Finding"]]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="check versions, device, activation, variables, and the spec of a model",
        description="Looks at what most often keeps a model from being accelerated: versions, the "
        "device, whether AUTOCACHE acts here and what it says, other cache libraries, and with "
        "--model which spec would match. The exit status is 1 when there is a problem. Its output "
        "belongs into a report of a bug.",
        epilog=examples(
            "autocache doctor",
            "autocache doctor --model my_pipeline",
            "autocache doctor --model FluxTransformer2DModel --json",
        ),
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="directory of a pipeline or model, a class of diffusers, or package.module:Class",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print every finding; 1 when one is a problem."""
    from autocache.cli.checks import environment, machine, packages

    checks: dict[str, Check] = {
        "packages": packages.findings,
        "device": machine.findings,
        "activation": environment.findings,
    }
    if options.model is not None:
        checks["model"] = lambda: _model(options.model)
    found = {title: list(_guarded(title, check)) for title, check in checks.items()}
    problems = sum(one.level == "problem" for findings in found.values() for one in findings)
    if options.json:
        facts = {"versions": packages.versions(), "variables": environment.variables()}
        listed = {title: [asdict(one) for one in findings] for title, findings in found.items()}
        print(json.dumps({**facts, "findings": listed, "problems": problems}, indent=2))
    else:
        for title, findings in found.items():
            print(title, *(f"  {one}" for one in findings), sep="\n")
        print(f"{problems} problem{'' if problems == 1 else 's'}", file=sys.stderr)
    return 1 if problems else 0


def _model(given: str) -> Iterable[Finding]:
    from autocache.cli.checks import model

    with inert():
        return list(model.findings(given))


def _guarded(title: str, check: Check) -> Iterator[Finding]:
    """One check that cannot be made must not hide what the others find."""
    from autocache.cli.checks.finding import Finding

    try:
        yield from check()
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding("problem", title, f"could not be checked: {words}")
