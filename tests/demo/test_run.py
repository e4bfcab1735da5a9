"""The demonstration's figures and its command, short of running it in full."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from autocache.cli.main import main
from autocache.demo import report
from autocache.demo.prompts import held_out
from autocache.demo.run import run, share_run
from autocache.jsonable import jsonable
from autocache.metrics import mean_psnr


def figures() -> dict:
    attributes = {"right": 0.9, "each": {"relation": 0.9}}
    cached = {
        "seconds": 1.0,
        "time_ratio": 2.0,
        "blocks_run": 0.4,
        "attention_run": None,
        "psnr_mean": math.inf,
        "psnr_worst": 31.25,
        "ssim": 0.98,
        "relative_l1": 0.01,
        "attributes": attributes,
    }
    return {
        "prompts": 8,
        "steps": 28,
        "seed": 0,
        "guidance": 1.0,
        "plain": {"seconds": 2.0, "attributes": attributes},
        "fewer_steps": {**cached, "steps": 14, "psnr_mean": 40.0, "attention_run": 0.5},
        "strategies": {"teacache": cached},
    }


def test_share_run_leaves_the_warm_up_out() -> None:
    # 29 passes of 12 blocks, the first a warm-up, 14 of the other 28 skipped.
    calls = {"run": 15 * 12, "total": 29 * 12}
    assert share_run(calls, passes=29, warm_up=1) == 0.5
    assert share_run({"run": 0, "total": 0}, passes=29, warm_up=1) is None


def test_mean_psnr_leaves_identical_pictures_out() -> None:
    assert mean_psnr([30.0, math.inf, 40.0]) == 35.0
    assert mean_psnr([math.inf]) == math.inf


def test_markdown_has_a_row_per_run() -> None:
    lines = report.markdown(figures()).splitlines()
    assert lines[2].startswith("| plain | 1.00x |")
    assert lines[3].startswith("| only 14 steps | 2.00x | 40.0% | 50.0% | 40.0 / 31.2 |")
    assert lines[4] == "| teacache | 2.00x | 40.0% | - | identical / 31.2 | 0.9800 | 90.0% |"


def test_a_terminal_of_eighty_columns_shows_every_word() -> None:
    """Identical pictures are one word, and nothing is cut off."""
    shown = figures()
    identical = {**shown["strategies"]["teacache"], "psnr_worst": math.inf, "attention_run": 1.0}
    shown |= {"prompts": 1, "strategies": {"tuned_3x": identical}}
    shown["fewer_steps"] |= {"psnr_mean": 43.5, "psnr_worst": 38.0}
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(report.table(shown))
    text = drawn.get()
    assert "…" not in text
    assert "identical" in text
    assert "43.5 / 38.0" in text
    assert "attributes" in text
    assert "1 held-out prompt in one batch" in text


def test_json_has_no_infinity() -> None:
    text = json.dumps(jsonable(figures()), allow_nan=False)
    assert json.loads(text)["strategies"]["teacache"]["psnr_mean"] == "inf"


def test_grid_has_a_row_per_prompt_and_two_columns_per_run(tmp_path: Path) -> None:
    plain = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    report.grid(tmp_path / "one.png", held_out(2), plain, {"teacache": plain})
    report.grid(tmp_path / "three.png", held_out(2), plain, dict.fromkeys("abc", plain))
    one, three = (Image.open(tmp_path / name) for name in ("one.png", "three.png"))
    assert three.width >= 7 * 128 > one.width
    assert one.height == three.height >= 2 * 128


@pytest.mark.parametrize("flags", [["--prompts", "0"], ["--steps", "1"]])
def test_the_command_turns_an_error_into_one_line(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autocache: error: ")
    assert error.count("\n") == 1


def test_the_demonstration_runs_end_to_end(tmp_path: Path) -> None:
    heard: list[str] = []
    found = run(tmp_path, ["teacache", "attention"], prompts=2, steps=6, tell=heard.append)
    for name in ("grid.png", "table.md", "figures.json", "steps.json", "prompts.txt"):
        assert (tmp_path / name).is_file()
    assert set(found["strategies"]) == {"teacache", "attention"}
    assert found["fewer_steps"]["steps"] == 3
    record = json.loads((tmp_path / "steps.json").read_text())["teacache"]
    assert record
    for cached in found["strategies"].values():
        assert 0 < cached["blocks_run"] <= 1
        assert cached["psnr_worst"] > 10
    assert "plain: step 6 of 6" in heard
