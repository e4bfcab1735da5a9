"""What holds of every command: examples, `--debug`, `--json`, one-line errors, a light start."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from autocache.cli import strategies
from autocache.cli.main import build_parser, main
from autocache.cli.parser import every, examples_of, subcommands

PARSERS = {parser.prog: parser for parser in every(build_parser())}
EXAMPLES = [line for parser in PARSERS.values() for line in examples_of(parser)]
JSON = ("demo", "tune", "calibrate", "compare", "strategies", "doctor", "specs list", "specs show")
HEAVY = ("torch", "pydantic", "yaml", "wrapt", "diffusers", "matplotlib", "jinja2", "rich", "numpy")


def autocache(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "autocache", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("prog", PARSERS)
def test_every_help_ends_in_examples(prog):
    """Of the command itself."""
    assert PARSERS[prog].description
    own = examples_of(PARSERS[prog])
    assert own
    assert all(line.startswith(prog) for line in own)
    text = PARSERS[prog].format_help()
    assert text.endswith("\n".join(f"  {line}" for line in own) + "\n")


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_parses(line):
    """As a shell would pass it on."""
    prog, *arguments = shlex.split(line)
    assert prog == "autocache"
    assert callable(build_parser().parse_args(arguments).run)


@pytest.mark.parametrize("command", [*JSON, "specs validate", "specs verify"])
def test_a_machine_may_read_it(command):
    """`--json` is an option."""
    assert "--json" in PARSERS[f"autocache {command}"]._option_string_actions


def test_every_option_says_what_it_is():
    """No option and no argument without a word of help."""
    silent = [
        f"{prog} {action.dest}"
        for prog, parser in PARSERS.items()
        for action in parser._actions
        if not action.help and action.dest not in ("command", "action")
    ]
    assert not silent


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_debug_may_stand_anywhere(at):
    """Before the command, after it, and at the end."""
    words = ["specs", "show", "nothing"]
    words.insert(at, "--debug")
    assert build_parser().parse_args(words).debug
    assert not build_parser().parse_args(["specs", "list"]).debug


def test_help_starts_light():
    """No command's parser imports what the command itself will need."""
    code = (
        "import sys; from autocache.cli.main import build_parser; build_parser().format_help(); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    done = autocache("--help")
    assert done.returncode == 0
    for name in subcommands(build_parser()):
        assert f"    {name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tun",), "'tun'; did you mean 'tune'?"),
        ((), "required: command"),
        (("doctor", "--jsn"), "did you mean '--json'?"),
        (("doctor", "--jsn=1"), "did you mean '--json'?"),
        (("specs", "lst"), "did you mean 'list'?"),
        (("specs", "list", "--jso1"), "did you mean '--json'?"),
        (("run", "--log", "degub", "x.py"), "did you mean 'debug'?"),
        (("tune", "model", "-o", "x.yaml"), "--speedup"),
        (("strategies", "teacach"), "did you mean 'teacache'?"),
        (("run", "--strategy", "teacach", __file__), "did you mean 'teacache'?"),
        (("run", "--param", "treshold=1", "--strategy", "teacache", __file__), "'threshold'"),
    ],
)
def test_a_wrong_word_is_answered_in_a_line(capsys, arguments, said):
    """With the nearest right one, and status 2."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert ": error: " in line


def test_what_nobody_foresaw_is_a_line(monkeypatch, capsys):
    """With its kind and how to see more; `--debug` raises it."""

    def broken() -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(strategies, "infos", broken)
    assert main(["strategies"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "autocache: error: ZeroDivisionError: division by zero (--debug shows where)"
    with pytest.raises(ZeroDivisionError):
        main(["strategies", "--debug"])


def test_an_error_ends_a_process_without_a_traceback():
    """And with one, where it is asked for."""
    done = autocache("strategies", "teacach")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" in autocache("strategies", "teacach", "--debug").stderr
