"""What a machine reads, alone on standard output: each command for real, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autocache
from autocache import demo

SMALL = (
    *("--prompt", "a red circle", "--call", "height=32", "--call", "width=32"),
    *("--call", "max_sequence_length=24", "--steps", "6", "--device", "cpu"),
)


def told(*arguments: str | Path, cwd: Path, status: int = 0) -> object:
    """The JSON that a command prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}
    done = subprocess.run(
        [sys.executable, "-m", "autocache", *map(str, arguments), "--json"],
        env=kept | {"HF_HUB_OFFLINE": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_strategies(tmp_path):
    """All, and one with its parameters."""
    listed = told("strategies", cwd=tmp_path)
    assert [one["name"] for one in listed] == [info.name for info in autocache.strategies()]
    assert "interval" in told("strategies", "fora", cwd=tmp_path)["parameters"]


def test_specs(tmp_path):
    """The list, one of them, and what is wrong with a file."""
    listed = told("specs", "list", cwd=tmp_path)
    assert [one["name"] for one in listed] == [info.name for info in autocache.specs()]
    assert told("specs", "show", "DiTTransformer2DModel", cwd=tmp_path)
    (tmp_path / "Mine.yaml").write_text("schema: 1\nmodel: mine:Mine\nstaks: []\n")
    (wrong,) = told("specs", "validate", "Mine.yaml", cwd=tmp_path, status=1)
    assert wrong["file"] == "Mine.yaml"
    assert wrong["problems"][0].startswith("Mine.yaml:3:1: ")


def test_specs_that_are_proven(tmp_path):
    """On a tiny model of the class."""
    proven = told("specs", "verify", "DiTTransformer2DModel", "--no-pipelines", cwd=tmp_path)
    assert proven


def test_the_demonstration(tmp_path):
    """The figures that it writes as well."""
    options = ("--strategy", "fora", "--prompts", "1", "--steps", "4", "--out", "d")
    figures = told("demo", *options, cwd=tmp_path)
    assert figures == json.loads((tmp_path / "d" / "figures.json").read_text())


def test_a_profile(tmp_path):
    """The one that is written, with what was measured."""
    options = ("--speedup", "2", "--budget", "13", "-o", "p.yaml")
    found = told("tune", demo.path("shapes"), *SMALL, *options, cwd=tmp_path)
    profile = autocache.Profile.read(tmp_path / "p.yaml")
    assert found.pop("file") == "p.yaml"
    assert found == profile.model_dump(mode="json")
    assert found["measured"]["psnr"]["mean"] == pytest.approx(profile.measured.psnr.mean)


def test_tables(tmp_path):
    """With what each is worth, and the specs that were written with them."""
    options = ("--strategy", "magcache", "--force", "--spec-out", "specs")
    made = told("calibrate", demo.path("shapes"), *SMALL, *options, cwd=tmp_path)
    (table,) = made["tables"]
    assert table["strategy"] == "magcache"
    assert table["model"].endswith(":FluxTransformer2DModel")
    assert len(table["table"]["ratios"]) > 0
    assert [Path(one).parent.name for one in made["specs"]] == ["specs"]
    assert (tmp_path / made["specs"][0]).exists()


def test_a_command_is_not_patched_by_the_variable(tmp_path, monkeypatch):
    """A shell that has AUTOCACHE exported may still tune and check specs."""
    command = [sys.executable, "-m", "autocache", "specs", "verify", "DiTTransformer2DModel"]
    done = subprocess.run(
        [*command, "--no-pipelines"],
        env=dict(os.environ) | {"AUTOCACHE": "teacach"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "autocache: " not in done.stderr
