"""`autocache run`: a script, as it is, with a strategy at work on every model it makes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from autocache import activation_unmet
from autocache.activation_grammar import FILES, off, with_parameters
from autocache.cli import asked, hook
from autocache.cli.parser import examples
from autocache.errors import ParameterError
from autocache.log import LEVELS


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="run a script with a strategy at work on every model it makes",
        description="Runs a Python script, or with -m a module, in a fresh interpreter with the "
        "variables AUTOCACHE, AUTOCACHE_REPORT and so on set, and ends with its exit status. The "
        "script needs no change; processes that it starts are accelerated as well. A line on "
        "standard error says which model was patched, or at the end that none was.",
        usage="%(prog)s [options] SCRIPT [ARGUMENT ...]\n"
        "       %(prog)s [options] -m MODULE [ARGUMENT ...]",
        epilog=examples(
            "autocache run infer.py --steps 28",
            "autocache run --strategy teacache --param threshold=0.1 infer.py",
            "autocache run --strategy fast.yaml --report report.html infer.py",
            "autocache run --strategy fora+invariant -m torch.distributed.run infer.py",
        ),
    )
    parser.add_argument(
        "--strategy",
        metavar="STRATEGY",
        help="a strategy, several joined by +, or a profile's file, as AUTOCACHE takes it "
        "(default: what AUTOCACHE says, else auto)",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of the strategy, as YAML; repeat for several",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report when it ends")
    parser.add_argument(
        "--stats",
        type=Path,
        metavar="FILE",
        help="write what was computed and skipped, as JSON; - prints it as a table",
    )
    parser.add_argument("--specs", type=Path, metavar="DIR", help="a directory of specs to add")
    parser.add_argument("--log", choices=LEVELS, type=str.lower, help="how much to say")
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="MODULE",
        help="run a module in place of a script",
    )
    parser.add_argument(
        "script",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT",
        help="the script; what stands behind it are its arguments",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Become the script's interpreter, or where that cannot be, wait for it: its exit status.

    Raises:
        ParameterError: there is no such script or module, or the request is not valid.
    """
    program = _program(options)
    # A file that is not there yet: whether any process of the program has met a model.
    note = Path(tempfile.gettempdir()) / f"autocache-run-{uuid.uuid4().hex}"
    environment = dict(os.environ) | variables(options) | {activation_unmet.VARIABLE: str(note)}
    if not hook.live():
        environment = hook.started_without(environment)
    command = [sys.executable, *program]
    sys.stdout.flush()
    if os.name == "posix":
        # The same process: signals and the exit status are the script's own.
        os.execve(sys.executable, command, environment)
    return subprocess.call(command, env=environment)


def variables(options: argparse.Namespace) -> dict[str, str]:
    """The variables that the options stand for. Paths are absolute: a script may change folder.

    Raises:
        UnknownStrategyError: no strategy has that name.
        ParameterError: a parameter is unknown or out of range, or the value does not parse.
        ProfileError: the profile's file cannot be read.
    """
    files = {"REPORT": options.report, "STATS": options.stats}
    found = {f"AUTOCACHE_{name}": str(file.absolute()) for name, file in files.items() if file}
    if options.specs is not None:
        if not options.specs.is_dir():
            raise ParameterError(f"--specs {options.specs}: not a directory")
        others = os.environ.get("AUTOCACHE_SPECS")
        given = str(options.specs.absolute())
        found["AUTOCACHE_SPECS"] = os.pathsep.join([given, others] if others else [given])
    if options.log is not None:
        found["AUTOCACHE_LOG"] = options.log
    return found | {"AUTOCACHE": _request(options)}


def _request(options: argparse.Namespace) -> str:
    """The value of AUTOCACHE, once it is known to be valid."""
    inherited = os.environ.get("AUTOCACHE", "")
    text = options.strategy or ("auto" if off(inherited) else inherited)
    if text.strip().lower().endswith(FILES):
        if options.param:
            raise ParameterError(
                f"--param {options.param[0]}: a profile has its parameters in its file, {text}"
            )
        asked.check(text)
        return str(Path(text).expanduser().absolute())
    text = with_parameters(text, options.param)
    asked.check(text)
    return text


def _program(options: argparse.Namespace) -> list[str]:
    """What follows the interpreter on its command line."""
    if options.module is not None:
        if not options.module:
            raise ParameterError("-m: expected the name of a module")
        _find_module(options.module[0])
        return ["-m", *options.module]
    script = options.script[1:] if options.script[:1] == ["--"] else options.script
    if not script:
        raise ParameterError("nothing to run: give a script, or -m and a module")
    if not Path(script[0]).exists():
        raise ParameterError(f"there is no script {script[0]}")
    return list(script)


def _find_module(name: str) -> Any:
    # The interpreter that runs it looks into the present folder first.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        found = None
    finally:
        del sys.path[0]
    if found is None:
        raise ParameterError(f"there is no module {name}")
    return found
