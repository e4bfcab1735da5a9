"""`autocache specs schema`, `draft`, `validate` and `verify`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from autocache.cli.inert import inert
from autocache.cli.parser import add_json, examples
from autocache.errors import ParameterError


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions."""
    actions.add_parser(
        "schema",
        help="print the JSON Schema of specs",
        description="For editors that complete and check YAML as it is typed.",
        epilog=examples("autocache specs schema"),
    ).set_defaults(run=run_schema)
    _add_draft(actions)
    validating = actions.add_parser(
        "validate",
        help="check spec files: format, conflicts, and every name in them",
        description="Print every problem as file:line:column: message. The exit status is 1 when "
        "there is one.",
        epilog=examples(
            "autocache specs validate Mine.yaml", "autocache specs validate my_specs --json"
        ),
    )
    validating.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or directories")
    add_json(validating)
    validating.set_defaults(run=run_validate)
    _add_verify(actions)


def _add_draft(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drafting = actions.add_parser(
        "draft",
        help="write a first spec of a class, from its source and a forward of a tiny instance",
        description="What could not be found out is a comment line that starts with QUESTION.",
        epilog=examples(
            "autocache specs draft DiTTransformer2DModel -o DiTTransformer2DModel.yaml",
            "autocache specs draft my_package.models:Mine --config tiny.yaml",
            "autocache specs draft my_pipeline",
        ),
    )
    drafting.add_argument(
        "target",
        metavar="TARGET",
        help="a class in diffusers, package.module:Class, or the directory of a pipeline or model",
    )
    drafting.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: print it")
    drafting.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML: constructor arguments of a tiny instance"
    )
    drafting.add_argument(
        "--inputs", type=Path, metavar="FILE", help="YAML: arguments of one call, as in a proof"
    )
    drafting.set_defaults(run=run_draft)


def _add_verify(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verifying = actions.add_parser(
        "verify",
        help="prove specs on tiny real models",
        description="The exit status is 1 when a spec fails.",
        epilog=examples(
            "autocache specs verify DiTTransformer2DModel",
            "autocache specs verify Mine.yaml --no-pipelines --json",
            "autocache specs verify --all",
        ),
    )
    verifying.add_argument(
        "names", nargs="*", metavar="SPEC", help="a class with a spec, or a file"
    )
    verifying.add_argument("--all", action="store_true", help="every spec there is")
    add_json(verifying)
    verifying.add_argument(
        "--pipelines", action=argparse.BooleanOptionalAction, default=True, help="run them too"
    )
    verifying.set_defaults(run=run_verify)


def run_schema(options: argparse.Namespace) -> None:
    """Print the JSON Schema."""
    from autocache.authoring.json_schema import text

    print(text(), end="")


@inert()
def run_draft(options: argparse.Namespace) -> None:
    """Print a draft, or write it to a new file."""
    from autocache.authoring.draft import drafted
    from autocache.authoring.target import resolve

    if options.output is not None and options.output.exists():
        raise ParameterError(f"{options.output} exists; a draft is written to a new file")
    given = _mapping(options.config), _mapping(options.inputs)
    draft = drafted(resolve(options.target), *given)
    if options.output is None:
        print(draft.text, end="")
        return
    options.output.write_text(draft.text, encoding="utf-8")
    questions = _counted(len(draft.questions), "question")
    print(f"{options.output}: {questions} to answer", file=sys.stderr)


def _mapping(file: Path | None) -> dict[str, Any] | None:
    """The mapping in a YAML file. Raises SpecError when it has none."""
    if file is None:
        return None
    from autocache.errors import SpecError
    from autocache.spec.document import read

    document = read(file)
    if document.problems:
        raise SpecError("\n".join(document.problems))
    return document.value


@inert()
def run_validate(options: argparse.Namespace) -> int:
    """Print every problem and, last, how many there are."""
    from autocache.authoring.validate import check

    found = check(options.files)
    if options.json:
        listed = [{**vars(checked), "file": str(checked.file)} for checked in found]
        print(json.dumps(listed, indent=2))
    for checked in () if options.json else found:
        for problem in checked.problems:
            print(problem)
        if checked.note:
            print(f"{checked.file}: note: {checked.note}")
    count = sum(len(checked.problems) for checked in found)
    print(f"{_counted(len(found), 'file')}, {_counted(count, 'problem')}", file=sys.stderr)
    return 1 if count or not found else 0


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


@inert()
def run_verify(options: argparse.Namespace) -> int:
    """Print a table, spec by spec, or all reports as JSON."""
    from autocache.authoring.verify import as_json, reports, table

    if bool(options.names) == options.all:
        raise ParameterError("give either names of specs or --all")
    found = []
    for report in reports(options.names or None, pipelines=options.pipelines):
        found.append(report)
        if not options.json:
            print(table([report]), flush=True)
    if options.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        failed = sum(bool(report.failed) for report in found)
        print(f"{_counted(len(found), 'spec')}, {failed} failed", file=sys.stderr)
    return 1 if any(report.failed for report in found) else 0
