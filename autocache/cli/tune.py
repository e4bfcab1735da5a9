"""`autocache tune`: the best way to run a model at a speed or a quality, as a profile."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.cli.inert import inert
from autocache.cli.parser import add_json, examples
from autocache.cli.workload_options import add_workload, read_inputs, workload
from autocache.errors import AutocacheError, ParameterError

if TYPE_CHECKING:
    from autocache.tuning.profile import Profile
    from autocache.tuning.workload import Workload

SEARCHES = ("dit_block", "attention")
PICTURES = (".svg", ".png")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="find the best way to run a model at a speed or a quality",
        description="Records the plain pipeline once, tries where to compute by running it, and "
        "writes the best as a profile with its error on inputs it was not chosen by. What it will "
        "cost is said first. Interrupted, the same command goes on.",
        epilog=examples(
            "autocache tune my_pipeline --speedup 2 --prompts prompts.txt -o fast.yaml",
            "autocache tune my_pipeline --min-psnr 30 --prompt 'a cat' -o good.yaml --budget 40",
            "autocache tune my_pipeline --time 1.5 --prompts prompts.txt --strategies "
            "schedule,teacache -o fast.yaml --plot frontier.svg --json",
        ),
    )
    add_workload(parser)
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--speedup", type=float, metavar="X", help="leave at most 1/X of the denoiser's compute"
    )
    goal.add_argument(
        "--min-psnr", type=float, metavar="DB", help="the cheapest of at least so many dB"
    )
    goal.add_argument(
        "--time", type=float, metavar="SECONDS", help="the best in so many seconds for each input"
    )
    parser.add_argument(
        "--strategies",
        type=_names,
        default=("schedule",),
        metavar="A,B",
        help="what to try: schedule, which fits one to the model, and any of `autocache "
        "strategies` (default: schedule)",
    )
    parser.add_argument(
        "--search", choices=SEARCHES, help="one of MindIE's published searches instead"
    )
    parser.add_argument(
        "--budget", type=int, metavar="N", help="full generations to spend, all in all"
    )
    parser.add_argument(
        "--storage",
        metavar="FILE_OR_URL",
        help="where the search is kept, to go on with or to share among workers: a .db, .sqlite3 "
        "or .log file or the URL of a database (default: OUTPUT.tuning.db, removed when done)",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="inputs for the final measurement, as --prompts (default: a third of the inputs, or "
        "where they are fewer than six all of them from other noise)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw quality against compute with the profile in it, as .svg or .png; this runs "
        "the held-out inputs some more times",
    )
    add_json(parser)
    parser.set_defaults(run=run)


@inert()
def run(options: argparse.Namespace) -> None:
    """Tune, write the profile and, on standard error, what was found."""
    _check(options)
    own = options.output.with_suffix(".tuning.db")
    storage = options.storage or str(own)
    held_out = read_inputs(options.held_out) if options.held_out else None
    given = workload(options)
    try:
        profile = _tuned(options, given, held_out, storage)
    except KeyboardInterrupt:
        kept = "" if options.storage else f" (or with --storage {own} to another output)"
        print(
            f"\nautocache: what is finished is in {storage}; the same command{kept} goes on there",
            file=sys.stderr,
        )
        raise
    if options.storage is None:
        own.unlink(missing_ok=True)
        shutil.rmtree(f"{own}.recorded", ignore_errors=True)
    print(_found(profile, options), file=sys.stderr)
    if options.json:
        print(json.dumps(_as_json(options.output), indent=2))


def _tuned(
    options: argparse.Namespace, given: Workload, held_out: list | None, storage: str
) -> Profile:
    from autocache.tuning.tune import tune

    shared = {
        "call": given.call,
        "held_out": held_out,
        "seed": given.seed,
        "batch": given.batch,
        "storage": storage,
        "progress": True,
    }
    profile = tune(
        given.pipe,
        given.inputs,
        speedup=options.speedup,
        min_psnr=options.min_psnr,
        time=options.time,
        strategies=options.strategies,
        search=options.search,
        budget=options.budget,
        **shared,
    )
    profile.write(options.output)
    if options.plot is not None:
        from autocache.tuning.frontier import frontier

        frontier(given.pipe, given.inputs, profile=profile, **shared).plot(options.plot)
    return profile


def _check(options: argparse.Namespace) -> None:
    """What would fail in the end is said before anything is spent."""
    for file in (options.output, options.plot):
        if file is not None and file.exists():
            raise ParameterError(f"{file} exists; what is found is written to a new file")
        if file is not None and not file.absolute().parent.is_dir():
            raise ParameterError(f"{file}: there is no directory {file.parent}")
    if options.plot is None:
        return
    if options.plot.suffix not in PICTURES:
        raise ParameterError(f"--plot {options.plot}: expected a name in .svg or .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise AutocacheError("--plot needs matplotlib: pip install 'autocache[report]'")


def _found(profile: Profile, options: argparse.Namespace) -> str:
    """What was found, and how to use it."""
    measured = profile.measured
    assert measured is not None
    assert measured.psnr is not None
    lines = [
        f"found: {_in_words(profile)}",
        f"on {measured.inputs} held-out inputs: {measured.psnr.mean:.1f} dB, 10th percentile "
        f"{measured.psnr.p10:.1f} dB, {measured.compute:.1%} of the compute, "
        f"{measured.time_ratio:.2f} times as fast ({measured.machine})",
        f"written to {options.output}; use it with",
        f'  autocache.patch(pipe, "{options.output}")',
        f"  AUTOCACHE={options.output} python your_script.py",
    ]
    if options.plot is not None:
        lines.insert(2, f"drawn in {options.plot}")
    return "\n".join(lines)


def _as_json(file: Path) -> dict[str, Any]:
    """The profile as it was written, hence with its numbers rounded."""
    from autocache.tuning.profile import Profile

    return Profile.read(file).model_dump(mode="json") | {"file": str(file)}


def _in_words(profile: Profile) -> str:
    words = []
    for name, parameters in profile.members():
        if name == "schedule":
            fitted = " with fitted weights" if parameters.get("weights") else ""
            count, total = len(parameters["steps"]), parameters["total"]
            words.append(f"schedule, {count} of {total} steps computed{fitted}")
        else:
            given = ", ".join(f"{key}={value}" for key, value in parameters.items())
            words.append(f"{name} ({given})" if given else name)
    return " and ".join(words)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
