"""`autocache calibrate`: tables for TeaCache and MagCache, measured on a model of one's own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autocache.cli.inert import inert
from autocache.cli.parser import add_json, examples
from autocache.cli.telling import telling
from autocache.cli.workload_options import add_workload, workload
from autocache.errors import ParameterError

if TYPE_CHECKING:
    from autocache.tuning.calibration import Calibration

STRATEGIES = ("teacache", "magcache")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="fit TeaCache's polynomial and MagCache's ratios to a model",
        description="Draws every prompt once without cache and writes what the strategies need of "
        "the model as tables for its spec, with how well they tell what they should. Tables that "
        "tell nothing are refused.",
        epilog=examples(
            "autocache calibrate my_pipeline --prompts prompts.txt --steps 28 -o tables.yaml",
            "autocache calibrate my_pipeline --prompts prompts.txt --spec-out my_specs",
            "autocache calibrate my_pipeline --prompt 'a cat' --strategy magcache --json",
        ),
    )
    add_workload(parser)
    parser.set_defaults(batch=1)
    parser.add_argument(
        "--strategy", action="append", choices=STRATEGIES, help="default: both; repeatable"
    )
    parser.add_argument(
        "--probe", metavar="NAME", help="of the spec (default: the one that tells most)"
    )
    parser.add_argument("--order", type=int, default=4, help="of the polynomial (default: 4)")
    parser.add_argument(
        "--warmup-steps", type=int, default=1, metavar="N", help="first steps to leave out"
    )
    parser.add_argument(
        "--min-r2", type=float, default=0.5, metavar="R2", help="to refuse below (default: 0.5)"
    )
    parser.add_argument("--force", action="store_true", help="write tables whatever they are worth")
    parser.add_argument("--id", metavar="NAME", help="of the tables (default: the checkpoint's)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the tables; default: print them"
    )
    parser.add_argument(
        "--spec-out",
        type=Path,
        metavar="PATH",
        help="put the tables into a spec: a directory for AUTOCACHE_SPECS, or one <class>.yaml; "
        "what is not there yet becomes a copy of the present spec",
    )
    add_json(parser)
    parser.set_defaults(run=run)


@inert()
def run(options: argparse.Namespace) -> None:
    """Calibrate, and write the tables and, on standard error, what they are worth."""
    from autocache.tuning.calibrate import calibrate

    if options.output is not None and options.output.exists():
        raise ParameterError(f"{options.output} exists; the tables are written to a new file")
    given = workload(options)
    count = len(given.inputs)
    with telling("calibrate", f"drawing {count} inputs once, without cache") as tell:
        made = calibrate(
            given.pipe,
            given.inputs,
            strategy=options.strategy or STRATEGIES,
            call=given.call,
            seed=given.seed,
            batch=given.batch,
            probe=options.probe,
            order=options.order,
            warmup_steps=options.warmup_steps,
            min_r2=options.min_r2,
            force=options.force,
            id=options.id,
            tell=lambda done: tell(f"{done} of {count} inputs drawn, without cache"),
        )
    print(made.report, file=sys.stderr)
    specs = made.write(options.spec_out) if options.spec_out else []
    for file in specs:
        print(f"spec: {file}", file=sys.stderr)
    if options.output is not None:
        options.output.write_text(made.to_yaml(), encoding="utf-8")
    if options.json:
        print(json.dumps(_as_json(made, specs), indent=2))
    elif options.output is None and not options.spec_out:
        print(made.to_yaml(), end="")


def _as_json(made: Calibration, specs: list[Path]) -> dict[str, object]:
    """The tables with what each is worth, those that were refused, and the specs written."""
    tables = [
        {
            "strategy": one.strategy,
            "model": one.spec.model,
            "table": one.table.model_dump(mode="json", exclude_unset=True, exclude_none=True),
            "worth": str(one.fit),
        }
        for one in made.made
    ]
    return {"tables": tables, "refused": dict(made.refused), "specs": [str(s) for s in specs]}
