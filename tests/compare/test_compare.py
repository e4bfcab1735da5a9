"""What a comparison measures, keeps and goes on with, on the bundled pipeline."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

import autocache
from autocache import demo
from autocache.errors import ParameterError, UnknownStrategyError
from autocache.metrics import mean_psnr, psnr
from autocache.tuning.workload import Workload
from devices import DEVICE

PROMPTS = [
    "a small red circle left of a large blue square",
    "a large green triangle above a small yellow star",
]
CALL = {"num_inference_steps": 4, "height": 64, "width": 64, "max_sequence_length": 24}


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32).to(DEVICE)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def compared(pipe: Any, out: Path, *strategies: Any, **options: Any) -> autocache.Comparison:
    given = {"inputs": PROMPTS, "call": CALL, "seed": 5, "rounds": 1} | options
    return autocache.compare(pipe, strategies or ["fora:interval=2"], out=out, **given)


@contextlib.contextmanager
def counted(pipe: Any) -> Iterator[list[bool]]:
    """Calls of the denoiser's first block, each whether the model is patched."""
    seen: list[bool] = []

    def see(*_: Any) -> None:
        seen.append(autocache.is_patched(pipe))

    handle = pipe.transformer.transformer_blocks[0].register_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def test_figures_are_those_of_the_pipeline_called_by_hand(pipe, tmp_path):
    """Quality, and the baseline's compute, of runs made without anything of the comparison."""
    found = compared(pipe, tmp_path / "out", "fora:interval=2")
    assert [(row.name, row.kind) for row in found.rows] == [
        ("plain", "plain"),
        ("3 steps", "fewer steps"),
        ("fora:interval=2", "strategy"),
    ]

    def draw(**options: Any) -> np.ndarray:
        noise = [torch.Generator().manual_seed(5 + nth) for nth in range(2)]
        arguments = {**CALL, "generator": noise, "output_type": "np", **options}
        return np.asarray(pipe(PROMPTS, **arguments).images, dtype=np.float32)

    plain, few = draw(), draw(num_inference_steps=3)
    with autocache.patched(pipe, "fora", interval=2):
        cached = draw()
    _, baseline, fora = found.rows
    assert fora.psnr == pytest.approx(mean_psnr(psnr(plain, cached)))
    assert fora.psnr_worst == pytest.approx(min(psnr(plain, cached)))
    assert baseline.psnr == pytest.approx(mean_psnr(psnr(plain, few)))
    assert baseline.compute == pytest.approx(3 / 4)
    assert fora.steps_same_cost == 3
    assert fora.psnr_gain == pytest.approx(fora.psnr - baseline.psnr)
    assert fora.speedup_low <= fora.speedup <= fora.speedup_high
    assert fora.bytes_peak > 0
    assert not autocache.is_patched(pipe)


def test_what_is_written_says_the_same(pipe, tmp_path):
    """Figures as JSON and CSV, a grid with a cell for each sample and run, and the plot."""
    found = compared(pipe, tmp_path)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == found.to_dict()
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [float(row["psnr"]) for row in rows[1:]] == [row.psnr for row in found.rows[1:]]
    with np.load(tmp_path / "runs" / "plain.npz") as kept:
        plain = kept["arr_1"]
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    # The second row's first picture, by the centres of its magnified pixels.
    cell = grid[-176:-16, 176:336]
    centres = (np.arange(64) + 0.5) * 160 / 64
    drawn = cell[np.ix_(centres.astype(int), centres.astype(int))] / 255
    assert np.abs(drawn - plain).max() < 0.01
    for name in ("plot.png", "plot.svg"):
        assert (tmp_path / name).stat().st_size > 1000
    svg = (tmp_path / "plot.svg").read_text()
    assert all(text in svg for text in ("fewer steps", "fora:interval=2", "speed-up, measured"))


def test_a_round_runs_plain_beside_cached_and_turns_about(pipe, tmp_path):
    """Of one strategy: plain and cached, then cached and plain."""
    told: list[str] = []
    with counted(pipe) as calls:
        marks: list[int] = []

        def tell(doing: str, done: float, total: float) -> None:
            told.append(doing)
            marks.append(len(calls))
            assert 0 <= done <= total

        compared(pipe, tmp_path, "fora:interval=2", rounds=2, fewer_steps=False, tell=tell)
    assert told == [
        "plain",
        "fora:interval=2",
        *(f"round {nth} of 2: fora:interval=2" for nth in (1, 2)),
        "done",
    ]
    second = calls[marks[3] : marks[4]]
    assert second == [True] * 4 + [False] * 4
    first = calls[marks[2] : marks[3]]
    assert first[-8:] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("after", [2, 6])
def test_an_interrupted_comparison_goes_on(pipe, tmp_path, after):
    """What was finished is not run again, and the figures of its drawings are the same."""
    whole = compared(pipe, tmp_path / "whole", "fora:interval=2", "fbcache:threshold=0.5")
    told: list[str] = []

    def stop(doing: str, done: float, total: float) -> None:
        told.append(doing)
        if len(told) == after:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    asked = ("fora:interval=2", "fbcache:threshold=0.5")
    with pytest.raises(KeyboardInterrupt):
        compared(pipe, out, *asked, tell=stop)
    finished = told[:-1]
    assert not autocache.is_patched(pipe)
    again: list[str] = []
    found = compared(pipe, out, *asked, tell=lambda doing, *_: again.append(doing))
    assert again[0] == told[-1]
    assert not set(finished) & set(again)
    assert [row.psnr for row in found.rows] == [row.psnr for row in whole.rows]
    assert all(row.speedup for row in found.rows)


def test_a_finished_comparison_runs_nothing_and_takes_more(pipe, tmp_path):
    """The same again is no call of the denoiser; another strategy is run alone."""
    first = compared(pipe, tmp_path)
    with counted(pipe) as calls:
        assert compared(pipe, tmp_path) == first
    assert calls == []
    told: list[str] = []
    more = compared(
        pipe,
        tmp_path,
        "fora:interval=2",
        ("fora", {"interval": 3}),
        tell=lambda doing, *_: told.append(doing),
    )
    assert told == ["fora:interval=3", "round 1 of 1: fora:interval=3", "done"]
    assert first.rows[-1] in more.rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 6}, "seed=5 and not 6"),
        ({"inputs": PROMPTS[:1]}, "inputs="),
        ({"call": CALL | {"num_inference_steps": 3}}, "call="),
    ],
)
def test_another_question_is_refused(pipe, tmp_path, change, said):
    """Naming what differs, and what to do."""
    compared(pipe, tmp_path)
    with pytest.raises(ParameterError, match=said) as raised:
        compared(pipe, tmp_path, **change)
    assert "name another folder" in str(raised.value)


def test_what_does_not_apply_is_a_row_that_says_why(pipe, tmp_path):
    """And the others have their figures."""
    found = compared(pipe, tmp_path, "deepcache", "fora:interval=2")
    (refused,) = found.problems
    assert refused.name == "deepcache"
    assert "no UNet levels" in refused.problem
    assert refused.psnr is refused.speedup is None
    assert found.rows[-1].psnr > 0
    with counted(pipe) as calls:
        assert compared(pipe, tmp_path, "deepcache").problems == (refused,)
    assert calls == []


def test_a_strategy_that_fails_is_a_row_too(pipe, tmp_path, monkeypatch):
    """With the error in a line; the pipeline is left without a patch."""
    draw = Workload.draw

    def fail(self: Workload, *args: Any, **options: Any) -> Any:
        if autocache.is_patched(pipe) and autocache.stats(pipe).strategy == "fora":
            raise RuntimeError("out\nof memory")
        return draw(self, *args, **options)

    monkeypatch.setattr(Workload, "draw", fail)
    found = compared(pipe, tmp_path)
    assert [row.problem for row in found.problems] == ["failed: RuntimeError: out of memory"]
    assert not autocache.is_patched(pipe)


def test_what_is_identical_is_not_in_the_plot(pipe, tmp_path):
    """A lossless strategy has infinite PSNR, which JSON says in words; alone it leaves no plot."""
    found = compared(pipe, tmp_path, "invariant", fewer_steps=False)
    assert found.rows[-1].psnr == float("inf")
    assert found.rows[-1].ssim == 1
    assert json.loads(found.to_json())["rows"][-1]["psnr"] == "inf"
    assert any("no plot" in note for note in found.notes)
    assert not (tmp_path / "plot.svg").exists()


def test_wrong_requests_are_refused_before_anything_is_run(pipe, tmp_path):
    """And leave no folder behind."""
    out = tmp_path / "out"
    with counted(pipe) as calls:
        with pytest.raises(UnknownStrategyError, match="'teacache'"):
            compared(pipe, out, "teacach")
        with pytest.raises(ParameterError, match="'threshold'"):
            compared(pipe, out, "teacache:treshold=0.1")
        with pytest.raises(ParameterError, match="list with at least one"):
            autocache.compare(pipe, "teacache", inputs=PROMPTS, out=out)
        with pytest.raises(ParameterError, match="inputs"):
            compared(pipe, out, inputs=[])
        with pytest.raises(ParameterError, match="rounds=0"):
            compared(pipe, out, rounds=0)
        with pytest.raises(ParameterError, match="a script's"):
            compared(pipe, out, args=["--steps"])
    assert calls == []
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_named(pipe, tmp_path):
    """One below a file, for instance."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="cannot keep the comparison there"):
        compared(pipe, tmp_path / "file" / "out")


def test_the_pipelines_own_patch_is_off_meanwhile_and_back_after(pipe, tmp_path):
    """Plain is plain, whatever the pipeline had."""
    with autocache.patched(pipe, "fora", interval=4):
        found = compared(pipe, tmp_path / "patched")
        assert autocache.stats(pipe).parameters["interval"] == 4
    bare = compared(pipe, tmp_path / "bare")
    assert [(row.psnr, row.compute) for row in found.rows] == [
        (row.psnr, row.compute) for row in bare.rows
    ]
