"""`autocache compare`: speed against quality of several strategies, side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.cli.model_or_script import ModelOrScript
from autocache.cli.parser import add_json, examples
from autocache.cli.workload_options import MODEL, add_options, inputs, positive, workload
from autocache.errors import ParameterError

if TYPE_CHECKING:
    from autocache.comparison.figures import Comparison

BUNDLED = {"height": 64, "width": 64, "max_sequence_length": 24}
BUNDLED_PROMPTS, BUNDLED_STEPS = 4, 28


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="speed against quality of several strategies, side by side",
        description="Runs strategies on the same inputs from the same noise, each timed beside the "
        "plain run, with fewer steps of the same cost as the baseline. Prints a table and writes "
        "figures, a plot and a grid of pictures. Interrupted, the same command goes on; with more "
        "strategies or rounds it runs only those. The exit status is 1 when a strategy that was "
        "named could not be run.",
        epilog=examples(
            "autocache compare",
            "autocache compare my_pipeline --prompts prompts.txt --steps 28 --strategy auto",
            "autocache compare --strategy teacache:threshold=0.1 --strategy fast.yaml infer.py "
            "--steps 28",
        ),
        usage="%(prog)s [options] [MODEL]\n       %(prog)s [options] SCRIPT.py [ARGUMENT ...]",
    )
    parser.add_argument(
        "model",
        nargs=argparse.REMAINDER,
        action=ModelOrScript,
        metavar="MODEL_OR_SCRIPT",
        help=f"{MODEL}, options before or behind it (default: the bundled one); or a script that "
        "ends in .py and calls a pipeline: what stands behind it are its arguments",
    )
    add_options(parser)
    parser.add_argument(
        "--strategy",
        action="append",
        metavar="STRATEGY",
        help="as AUTOCACHE takes it, e.g. teacache:threshold=0.2, or a profile; repeat for several "
        "(default: auto, fbcache, taylorseer and teacache)",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="timed pairs of a plain and a cached run for each strategy (default: 3)",
    )
    parser.add_argument(
        "--fewer-steps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the baseline of fewer steps",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("autocache-compare"),
        metavar="DIR",
        help="what is found, and what is finished so far (default: %(default)s)",
    )
    add_json(parser)
    parser.add_argument(
        "--calls",
        type=positive,
        metavar="N",
        help="of a script, end it after so many calls of its pipeline",
    )
    parser.set_defaults(run=run, arguments=[])


def run(options: argparse.Namespace) -> int:
    """Compare, and print the table or, for a machine, all figures."""
    from autocache.comparison.progress import ComparisonProgress

    target, given = _given(options)
    try:
        with ComparisonProgress() as progress:
            found = _compared(options, target, given, progress)
    except KeyboardInterrupt:
        print(f"\nautocache: {_left(options.out)}", file=sys.stderr)
        raise
    if options.json:
        print(found.to_json())
    else:
        _show(found)
    return 1 if options.strategy and found.problems else 0


def _left(out: Path) -> str:
    """What an interruption leaves."""
    if not any((out / "runs").glob("*.json")):
        return "nothing was finished yet; the same command begins anew"
    return f"what is finished is in {out}; the same command goes on there"


def _compared(
    options: argparse.Namespace, target: Any, given: dict[str, Any], progress: Any
) -> Comparison:
    from autocache.comparison.compare import compare
    from autocache.comparison.entry import DEFAULT

    return compare(
        target,
        options.strategy or DEFAULT,
        seed=options.seed,
        rounds=options.rounds,
        out=options.out,
        fewer_steps=options.fewer_steps,
        tell=progress,
        **given,
    )


def _given(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The script or the loaded pipeline, and what is run of it."""
    if options.model and options.model.endswith(".py"):
        return _script(options)
    if options.calls:
        raise ParameterError("--calls is for a script that ends in .py")
    if options.model is None:
        _bundled(options)
    assert options.model is not None
    folder = Path(options.model)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ParameterError(
            f"{folder} has no model_index.json; expected the directory of a diffusers pipeline, or "
            "a script that ends in .py"
        )
    from autocache.comparison.entry import entries

    if options.strategy:
        entries(options.strategy)  # A wrong name is said before anything is loaded.
    made = workload(options)
    given = {"inputs": made.inputs, "call": made.call, "batch": made.batch}
    return made.pipe, given


def _script(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    for name in ("prompt", "prompts", "steps", "call", "pipeline", "device"):
        if getattr(options, name):
            raise ParameterError(
                f"--{name} is for a pipeline; what {options.model} draws is for its own arguments, "
                "behind it, to say"
            )
    return Path(options.model), {"args": options.arguments, "calls": options.calls}


def _bundled(options: argparse.Namespace) -> None:
    """The bundled pipeline, and prompts and arguments that it is good at."""
    from autocache import demo
    from autocache.demo.prompts import held_out

    options.model = demo.path()
    if not options.prompt and not options.prompts:
        options.prompt = held_out(BUNDLED_PROMPTS)
    options.steps = options.steps or BUNDLED_STEPS
    options.call = [*BUNDLED.items(), *options.call]
    inputs(options)


def _show(found: Comparison) -> None:
    from rich.console import Console

    from autocache.comparison.table import caption, table

    console = Console(highlight=False, markup=False)
    console.print(table(found))
    console.print(caption(found), soft_wrap=True)
    console.print(f"pictures, plot, table and figures: {found.folder}", soft_wrap=True)
    sys.stdout.flush()
