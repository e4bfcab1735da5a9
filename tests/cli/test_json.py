"""What a machine reads, alone on standard output: each command for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autocache
from autocache import demo
from autocache.cli.main import main

Told = Callable[..., Any]

SMALL = (
    *("--prompt", "a red circle", "--call", "height=32", "--call", "width=32"),
    *("--call", "max_sequence_length=24", "--steps", "6", "--device", "cpu"),
)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Told:
    """The JSON that a command prints, alone on the process's standard output, in an empty folder.

    Of the process as well: what a library prints past Python's streams would be in it too.
    """
    for name in [name for name in os.environ if name.startswith("AUTOCACHE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, status: int = 0) -> Any:
        capfd.readouterr()
        found = main([*map(str, arguments), "--json"])
        said, logged = capfd.readouterr()
        assert found == status, logged
        return json.loads(said)

    return run


def test_strategies(told):
    """All, and one with its parameters."""
    listed = told("strategies")
    assert [one["name"] for one in listed] == [info.name for info in autocache.strategies()]
    assert "interval" in told("strategies", "fora")["parameters"]


def test_specs(told, tmp_path):
    """The list, one of them, and what is wrong with a file."""
    listed = told("specs", "list")
    assert [one["name"] for one in listed] == [info.name for info in autocache.specs()]
    assert told("specs", "show", "DiTTransformer2DModel")
    (tmp_path / "Mine.yaml").write_text("schema: 1\nmodel: mine:Mine\nstaks: []\n")
    (wrong,) = told("specs", "validate", "Mine.yaml", status=1)
    assert wrong["file"] == "Mine.yaml"
    assert wrong["problems"][0].startswith("Mine.yaml:3:1: ")


def test_specs_that_are_proven(told):
    """On a tiny model of the class."""
    proven = told("specs", "verify", "DiTTransformer2DModel", "--no-pipelines")
    assert proven


def test_the_demonstration(told, tmp_path):
    """The figures that it writes as well."""
    options = ("--strategy", "fora", "--prompts", "1", "--steps", "4", "--out", "d")
    figures = told("demo", *options)
    assert figures == json.loads((tmp_path / "d" / "figures.json").read_text())


def test_a_profile(told, tmp_path):
    """The one that is written, with what was measured."""
    options = ("--speedup", "2", "--budget", "13", "-o", "p.yaml")
    found = told("tune", demo.path("shapes"), *SMALL, *options)
    profile = autocache.Profile.read(tmp_path / "p.yaml")
    assert found.pop("file") == "p.yaml"
    assert found == profile.model_dump(mode="json")
    assert found["measured"]["psnr"]["mean"] == pytest.approx(profile.measured.psnr.mean)


def test_tables(told, tmp_path):
    """With what each is worth, and the specs that were written with them."""
    options = ("--strategy", "magcache", "--force", "--spec-out", "specs")
    made = told("calibrate", demo.path("shapes"), *SMALL, *options)
    (table,) = made["tables"]
    assert table["strategy"] == "magcache"
    assert table["model"].endswith(":FluxTransformer2DModel")
    assert len(table["table"]["ratios"]) > 0
    assert [Path(one).parent.name for one in made["specs"]] == ["specs"]
    assert (tmp_path / made["specs"][0]).exists()


def test_a_command_is_not_patched_by_the_variable(tmp_path):
    """A shell that has AUTOCACHE exported may still check specs; in a process of its own, where
    the JSON is alone on standard output too."""
    command = [sys.executable, "-m", "autocache", "specs", "verify", "DiTTransformer2DModel"]
    done = subprocess.run(
        [*command, "--no-pipelines", "--json"],
        env=dict(os.environ) | {"AUTOCACHE": "teacach"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert "autocache: " not in done.stderr
