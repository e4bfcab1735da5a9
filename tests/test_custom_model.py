"""The example of a model that is not from diffusers, with its spec and a script of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.authoring.instance import model_of
from autocache.authoring.verify import verify
from autocache.runtime.distance import relative_l1
from autocache.spec.loader import load
from scripts import ROOT

FOLDER = ROOT / "examples" / "custom_model"


def sample(folder: Path, name: str, **environment: str) -> tuple[torch.Tensor, str]:
    """What the script samples and says, run as its users do."""
    saved = folder / f"{name}.pt"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sample.py"), "--steps", "12", "--save", str(saved)],
        env={"OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(saved), done.stderr


def test_the_script_is_accelerated_by_its_spec_alone(tmp_path: Path) -> None:
    """Its blocks take positional arguments and a dataclass; both guidance branches skip."""
    plain, silent = sample(tmp_path, "plain")
    stats = tmp_path / "stats.json"
    cached, said = sample(
        tmp_path,
        "cached",
        AUTOCACHE="dit_block:step_start=2,step_interval=2",
        AUTOCACHE_SPECS=str(FOLDER),
        AUTOCACHE_STATS=str(stats),
    )
    assert not silent
    assert "dit_block" in said
    assert "on TinyDiT, 12 blocks, spec TinyDiT.yaml" in said
    (run,) = json.loads(stats.read_text())
    assert run["spec_file"] == str(FOLDER / "TinyDiT.yaml")
    assert (run["generations"], run["passes"]) == (1, 24)
    assert {step["branch"] for step in run["steps"]} == {"0", "1"}
    assert 0 < run["block_calls"]["run"] < run["block_calls"]["total"]
    assert 0 < relative_l1(plain, cached) < 0.1


def test_its_spec_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams within a dataclass are skipped and recomposed exactly."""
    monkeypatch.syspath_prepend(str(FOLDER))
    (report,) = verify(FOLDER / "TinyDiT.yaml")
    assert not report.failed, str(report)
    outcomes: dict[str, Any] = {check.name: check.outcome for check in report.checks}
    for check in ("streams", "ranges", "attention", "feed-forward", "probes", "invariant"):
        assert outcomes[check] == "passed", check


def test_its_streams_are_within_a_dataclass() -> None:
    """What the example is there to show."""
    (stack,) = load(FOLDER / "TinyDiT.yaml").stacks
    assert stack.return_items == ("streams",)
    assert stack.return_order == ("streams.picture", "streams.text")


@pytest.mark.parametrize("config", [{"depth": 4}, SimpleNamespace(depth=4), nn.Identity(), 7])
def test_what_a_model_calls_its_config_may_be_anything(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what belongs to a checkpoint is looked for in it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    model: Any = model_of(load(FOLDER / "TinyDiT.yaml"))
    model.config = config
    with autocache.patched(model, "dit_block", spec=FOLDER / "TinyDiT.yaml"):
        assert autocache.is_patched(model)
