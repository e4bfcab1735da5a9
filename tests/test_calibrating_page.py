"""docs/calibrating.md tells of commands, bars and defaults that there are."""

from __future__ import annotations

import ast
import re
import shlex

import pytest

from autocache.cli.main import build_parser
from autocache.spec.tables import TeaCacheTable
from autocache.tuning import calibrate_magcache, calibrate_teacache
from autocache.tuning.calibrate import MIN_RANK
from scripts import ROOT

TEXT = (ROOT / "docs" / "calibrating.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line.removeprefix("$ ") for _, body in FENCED for line in body.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("autocache ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_command_line_takes(command):
    """With its options."""
    options = build_parser().parse_args(shlex.split(command)[1:])
    assert options.command == "calibrate"


def test_options_in_the_text_exist():
    """Each with a double dash is one of the command's."""
    named = set(re.findall(r"`(--[a-z0-9-]+)", TEXT))
    assert {"--force", "--probe", "--min-r2", "--warmup-steps"} <= named
    for option in named:
        value = [] if option == "--force" else ["1"]
        build_parser().parse_args(["calibrate", "model", option, *value])


def test_python_is_python():
    """The blocks that say so parse."""
    blocks = [body for language, body in FENCED if language == "python"]
    assert blocks
    for body in blocks:
        ast.parse(body)


def test_the_bars_are_those_of_the_code():
    """What is refused, the order and the shares of the thresholds."""
    options = build_parser().parse_args(["calibrate", "model"])
    assert f"less than {options.min_r2} of the variance" in TEXT
    assert f"is below {MIN_RANK} |" in TEXT
    assert f"by more than {calibrate_magcache.MAX_SPREAD} (" in TEXT
    assert f"cosine distance above {calibrate_magcache.MAX_TURN}," in TEXT
    assert f"polynomial of order {options.order} " in TEXT
    shares = [f"{share:.0%}".removesuffix("%") for share in calibrate_teacache.SHARES]
    assert "{}, {} and {} %".format(*shares) in " ".join(TEXT.split())
    assert "valid_for" in TeaCacheTable.model_fields
