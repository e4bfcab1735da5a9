"""The benchmark of overhead measures what it says, on models of a few blocks; its page says what
was measured."""

from __future__ import annotations

import json
import shlex
import sys
from types import ModuleType
from typing import Any

import importing
import pytest

import overhead
import overhead_machine
from gpu_contestants import OURS
from scripts import ROOT, tool

page = tool("overhead_page")
NEVER = "never skipping"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of Flux, in one round."""
    out = tmp_path_factory.mktemp("overhead") / "overhead.json"
    given = ("--tiny", "--model", "flux_narrow", "--rounds", "1", "--out", str(out))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["overhead.py", *given])
        overhead.main()
    return json.loads(out.read_text())["models"]["flux_narrow"]["rows"]


def test_every_method_is_there(rows: dict[str, Any]) -> None:
    """Ours and the peers', each with the time of every kind of step that it has."""
    ours = {f"autocache {name}" for name in OURS if name != "deepcache"}
    assert ours | set(page.SAME) | {page.AGAIN} <= set(rows)
    for name, row in rows.items():
        assert set(row["time"]) == set(row["waits"]) == set(row["work"]) <= set(row["steps"]), name
        assert all(one["instructions"] > one["operations"] > 0 for one in row["work"].values())
        assert all(one["ratio"] > 0 for one in row["time"].values())


def test_what_is_skipped(rows: dict[str, Any]) -> None:
    """By turns in most rows; nothing in those that say so."""
    for name, row in rows.items():
        if name.endswith(NEVER) or name == page.AGAIN:
            assert set(row["steps"]) == {"computed"}, name
        elif name != "diffusers FirstBlockCache":
            assert abs(row["steps"]["computed"] - row["steps"]["skipped"]) <= 2, name


def test_waits(rows: dict[str, Any]) -> None:
    """None by a fixed schedule, at most one by a rule that measures."""
    for name in ("dit_block", "attention", "taylorseer", "magcache", "auto"):
        assert set(rows[f"autocache {name}"]["waits"].values()) == {0}, name
    for name in ("teacache", "fbcache"):
        assert max(rows[f"autocache {name}"]["waits"].values()) == 1


def test_memory_is_no_more_than_that_of_a_peer(rows: dict[str, Any]) -> None:
    """For the same method on the same model."""
    for peer, ours in page.SAME.items():
        assert rows[ours]["bytes"] <= rows[peer]["bytes"], peer


@pytest.mark.parametrize(
    ("machine", "words"),
    [(True, "1.040 to 1.030 of a plain step"), (False, "1,040 to 1,020 Python instructions")],
)
def test_a_peer_that_is_ahead_needs_a_reason(
    monkeypatch: pytest.MonkeyPatch, machine: bool, words: str
) -> None:
    """Each is named with what it is ahead in."""
    rows = {
        page.AGAIN: _row(1.0, 1000, waits=0, held=0, machine=machine),
        "autocache magcache": _row(1.04, 1040, waits=1, held=64, machine=machine),
        "diffusers MagCache": _row(1.03, 1020, waits=0, held=32, machine=machine),
    }
    monkeypatch.setattr(page, "REASONS", {})
    with pytest.raises(ValueError, match="autocache magcache, computed step, is behind"):
        list(page._behind([("Model", rows)]))
    named = ("computed step", "skipped step", "waits of a computed step", "held")
    monkeypatch.setattr(
        page, "REASONS", {("autocache magcache", what): f"Why {what}." for what in named}
    )
    said = list(page._behind([("Model", rows)]))[1]
    assert all(f"**autocache magcache, {what}.**" in said for what in named)
    assert words in said
    assert "Why held." in said
    del rows["diffusers MagCache"]
    assert list(page._behind([("Model", rows)]))[1] == "Nowhere."


def test_machine_instructions_go_with_their_row() -> None:
    """Each kind of step of each method has its ratio to the plain step, where it was counted."""
    rows = {"a": {"bytes": 1}, "b": {}}
    assert page.with_machine(rows, {"a": {"computed": {"ratio": 1.5}}, "c": {}}) == {
        "a": {"bytes": 1, "machine": {"computed": 1.5}},
        "b": {"machine": {}},
    }


def test_every_reason_is_needed() -> None:
    """What a peer is no longer ahead in has none."""
    said = page.PAGE.read_text()
    assert all(f"- **{ours}, {what}.**" in said for ours, what in page.REASONS)


@pytest.mark.parametrize(
    ("script", "count"), [(overhead, 2), (overhead_machine, 1), (importing, 1)]
)
def test_the_commands_of_the_page(script: ModuleType, count: int) -> None:
    """Each script takes what docs/benchmarks.md gives it."""
    said = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    commands = [line for line in said if line.startswith(f"python benchmarks/{script.__name__}.py")]
    assert len(commands) == count
    for command in commands:
        script.parser().parse_args(shlex.split(command, comments=True)[2:])


def _row(ratio: float, instructions: int, waits: int, held: int, machine: bool) -> dict[str, Any]:
    return {
        "machine": dict.fromkeys(page.KINDS, ratio) if machine else {},
        "work": {kind: {"instructions": instructions} for kind in page.KINDS},
        "waits": {"computed": waits},
        "bytes": held,
    }
