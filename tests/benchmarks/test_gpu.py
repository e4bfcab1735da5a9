"""The benchmark of full-size models runs as it will on a GPU, in small, and knows what it needs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
import gpu_row
from gpu_contestants import FIRST, contestants
from gpu_models import models
from scripts import ROOT, tool

SIZES = json.loads((gpu.RESULTS / "gpu_sizes.json").read_text())["models"]
SMALL = ("--device", "cpu", "--tiny", "--backend", "eager")


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    """What the command wrote."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out), *arguments])
    gpu.main()
    return json.loads(out.read_text()) if out.exists() else {}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All rows of one model."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run(monkeypatch, out, *SMALL, "--model", "flux_dev")


def test_without_a_gpu_it_says_so(monkeypatch, tmp_path, capsys):
    """And that is no error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch, tmp_path / "gpu.json") == {}
    assert "no GPU here, so nothing was measured" in capsys.readouterr().out


def test_every_contestant_runs(flux):
    """Eager and with compiled blocks, and each step was timed."""
    model = models(tiny=True)["flux_dev"]
    rows = flux["models"]["flux_dev"]
    assert list(rows["eager"]) == list(contestants(model))
    assert list(rows["compiled"]) == list(model.compiled)
    for row in (*rows["eager"].values(), *rows["compiled"].values()):
        assert len(row["milliseconds"]) == model.steps, row
        assert row["total_ms"] == pytest.approx(sum(row["milliseconds"]), rel=1e-3)


def test_they_skip_as_they_are_said_to(flux):
    """By turns from the third step on: so many computed steps, none before two were computed."""
    rows = flux["models"]["flux_dev"]["eager"]
    whole = rows["plain"]["operations"][0]
    for name, row in rows.items():
        computed = [one >= gpu_row.SKIPPED * whole for one in row["operations"]]
        if row["pattern"] == "none":
            assert all(computed)
        elif row["pattern"] == "by turns":
            assert abs(sum(computed) - len(computed) / 2) <= 2, name
        else:
            assert computed == [True] + [False] * (len(computed) - 1)
        if name.startswith("autocache") and "auto" not in name.split():
            assert all(computed[:FIRST])


def test_fixed_schedules_read_nothing(flux):
    """No value of a tensor, which a GPU would be waited for, beyond what the plain loop reads."""
    rows = flux["models"]["flux_dev"]["eager"]
    for name in ("dit_block", "taylorseer", "attention"):
        assert rows[f"autocache {name}"]["waits"] == rows["plain"]["waits"] == 0
    for name in ("teacache", "fbcache"):
        assert 0 < rows[f"autocache {name}"]["waits"] < len(rows["plain"]["milliseconds"])


@pytest.mark.parametrize("name", ["sdxl", "wan_1_3b", "hunyuan_video"])
def test_every_model_runs(name, monkeypatch, tmp_path):
    """With one strategy of ours and one peer."""
    ours, peer = (
        ("dit_block", "cache-dit DBCache") if name != "sdxl" else ("deepcache", "DeepCache")
    )
    wanted = ("plain", f"autocache {ours}", peer)
    rows = [part for row in wanted for part in ("--row", row)]
    found = run(monkeypatch, tmp_path / "gpu.json", *SMALL, "--model", name, *rows)
    eager = found["models"][name]["eager"]
    assert set(eager) == set(wanted)
    for row in wanted:
        assert len(eager[row]["milliseconds"]) == models(tiny=True)[name].steps, eager[row]
    plain = sum(eager["plain"]["operations"])
    assert all(sum(eager[row]["operations"]) < plain for row in wanted[1:])


def test_it_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    """Only what is missing is measured, none when the time is over."""
    out, only = tmp_path / "gpu.json", (*SMALL, "--model", "wan_14b")
    first = run(monkeypatch, out, *only, "--row", "plain")
    again = run(monkeypatch, out, *only, "--row", "plain", "--row", "autocache dit_block")
    rows = again["models"]["wan_14b"]["eager"]
    assert rows["plain"] == first["models"]["wan_14b"]["eager"]["plain"]
    assert "autocache dit_block" in rows
    capsys.readouterr()
    assert run(monkeypatch, out, *only, "--minutes", "-1") == again
    assert "2 rows are left" in capsys.readouterr().out


def test_a_result_of_another_machine_is_not_added_to(monkeypatch, tmp_path):
    """It says in what it differs."""
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"device": "another one", "models": {}}))
    with pytest.raises(SystemExit, match=r"another command, device, host"):
        run(monkeypatch, out, *SMALL)


@pytest.mark.parametrize("name", models())
def test_models_have_the_size_that_is_published(name):
    """As the configuration makes them, and as the committed sizes say."""
    model = models()[name]
    made = sum(one.numel() for one in model.empty().parameters())
    assert made == pytest.approx(model.parameters, rel=0.1)
    assert SIZES[name]["parameters"] == made
    assert SIZES[name]["bytes"]["weights"] >= 2 * made
    assert SIZES[name]["source"] == model.source


def test_what_is_kept_of_flux_is_what_the_formulas_say():
    """On the meta device, by which the others are found."""
    features = (4096 + 512) * 24 * 128 * 2
    kept = SIZES["flux_dev"]["bytes"]["kept"]
    assert kept["dit_block"] == 2 * features
    assert kept["attention"] == 57 * features
    assert kept["auto"] == 3 * 4096 * 64 * 2


def test_the_page_is_what_the_results_say():
    """Word for word what the tool writes."""
    page = tool("gpu_page")
    assert page.PAGE.read_text() == page.page()


def test_the_commands_of_the_page():
    """The script takes what docs/benchmarks.md gives it, and has such models and rows."""
    said = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    commands = [line for line in said if line.startswith("python benchmarks/gpu.py")]
    assert commands
    for command in commands:
        options = gpu.parser().parse_args(shlex.split(command, comments=True)[2:])
        assert set(options.model or ()) <= set(models())
        assert set(options.row or ()) <= set(contestants(models()["flux_dev"]))
