"""The command line lists strategies and describes one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import autocache
from autocache.cli.main import main


def test_strategies_are_listed(capsys):
    """One line per strategy, its name first."""
    assert main(["strategies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [s.name for s in autocache.strategies()]


def test_one_strategy_is_described(capsys):
    """All its parameters, its formula and its source."""
    assert main(["strategies", "dit_block"]) == 0
    said = capsys.readouterr().out
    for words in ("step_interval", "max_consecutive_skips", "Formula:", "MindIE-SD"):
        assert words in said
    assert main(["strategies", "dit_block", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"]["step_interval"]["values"] == "integer, >= 1"


def test_what_has_no_default_has_to_be_given(capsys):
    """A strategy that cannot do without says so."""
    assert main(["strategies", "schedule"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "to be given" in line]
    assert [row.split()[0] for row in rows] == ["steps", "total"]


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_misspelt_strategy_is_an_error(capsys, json_):
    """The nearest name is given, and the exit status is 2."""
    assert main(["strategies", "dit_blok", *json_]) == 2
    assert "'dit_block'" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error():
    """`autocache specs list | head` ends without a traceback."""
    command = [sys.executable, "-m", "autocache", "specs", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert said == b""
    assert process.returncode == 141
