"""What `benchmarks/quality.py` counts, writes, chooses and compares."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quality
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import autocache
from bench import CHOSEN_ON, HELD_OUT, MEASURED, SPEEDUPS, Bench
from cases import CASES
from choosing import chosen, settings, summary
from figures import figures
from methods import FIRST, Setting, methods, names, settled
from own import named
from records import RESULTS, Records
from scripts import ROOT
from turns import ratio
from variants import Variant

EVERY = [(name, guidance) for name in CASES for guidance in (False, True)]
STEPS = 4
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(scope="module", params=EVERY, ids=lambda one: f"{one[0]}-{one[1]}")
def every(request: pytest.FixtureRequest) -> Bench:
    name, guidance = request.param
    return Bench(CASES[name], guidance)


@pytest.fixture(scope="module")
def small() -> Bench:
    """A prompt and a few steps."""
    bench = Bench(CASES["shapes"], True)
    bench.measured, bench.chosen_on = bench.measured[:1], bench.chosen_on[:1]
    for workload in (bench.measuring, bench.choosing):
        workload.call["num_inference_steps"] = STEPS
    return bench


def test_nothing_is_measured_on_what_settings_came_from(every: Bench) -> None:
    """64 different prompts; none of them chosen or tuned on, and none of their noise."""
    assert len(set(every.measured)) == MEASURED >= 64
    assert not set(every.measured) & {*every.chosen_on, *every.tuning}
    assert len(every.chosen_on) == CHOSEN_ON
    assert len(every.tuning) == every.tuned_on + HELD_OUT
    seeds = set(range(MEASURED))
    assert not seeds & set(range(1000, 1000 + CHOSEN_ON))
    for speedup in SPEEDUPS:
        file = f"{every.name.replace('/', '_')}_{speedup}x.yaml"
        text = (RESULTS / "profiles" / file).read_text()
        first, last = json.loads(text.split("seeds: ")[1].split("\n")[0])
        assert first > MEASURED < last


def test_every_row_is_known(every: Bench) -> None:
    """Each strategy, each library; and those that come first exist."""
    rows = names(every)
    assert len(set(rows)) == len(rows)
    assert rows[: len(FIRST)] == list(FIRST)
    strategies = {info.name for info in autocache.strategies()}
    assert strategies - {"auto", "schedule", "fewer_steps"} <= set(rows)


def test_compute_is_torchs_count_over_the_whole_generation(small: Bench) -> None:
    """Of the denoiser alone; attention on a CPU is what torch's counter cannot see by itself."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={on_cpu: attention}) as whole:
        small.measuring.run()
    with FlopCounterMode(display=False) as blind:
        small.measuring.run()
    model = type(small.pipe.transformer).__name__
    seen = sum(whole.get_flop_counts()[model].values())
    assert small.plain.compute == seen
    assert seen > sum(blind.get_flop_counts()[model].values()) > 0.5 * seen
    assert small.uncached()["macs_per_prompt"] == seen // 2 // MEASURED


def test_figures_of_a_setting(small: Bench) -> None:
    """The plain pipeline is itself; half the steps are half the compute and something else."""
    same = small.measure(named("fewer_steps"), {"steps": STEPS})
    assert (same["compute"], same["psnr"], same["worst"], same["ssim"]) == (1, "inf", "inf", 1)
    assert same["attributes"] == small.uncached()["attributes"]
    half = small.measure(named("fewer_steps"), {"steps": STEPS // 2})
    assert half["compute"] == 0.5
    assert 5 < half["worst"] == half["psnr_p10"] <= half["psnr"] < 60
    assert 0 < half["ssim_p10"] <= half["ssim"] < 1


def test_one_sample_that_tips_does_not_hide_the_rest() -> None:
    """Mean and percentile are of decibels per sample; a clip is one sample."""
    plain = [np.zeros((17, 32, 32, 3), dtype=np.float32) for _ in range(20)]
    drawn = [one + 0.001 for one in plain]
    drawn[0] = plain[0] + 1.0
    found = figures(plain, drawn, ["x"] * 20, lambda *_: {"one": True, "other": False})
    assert found["psnr"] == pytest.approx((0 + 19 * 60) / 20, abs=0.01)
    assert (found["worst"], found["psnr_p10"]) == (pytest.approx(0, abs=0.01), 60.0)
    assert found["attributes"] == 0.5


def test_only_the_ratio_of_time_is_written(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns with the plain pipeline."""
    monkeypatch.setattr("bench.STEPS", STEPS)
    monkeypatch.setattr("turns.TURNS", 2)
    found = ratio(small, named("fewer_steps"), {"steps": 1})
    assert set(found) == {"cpu", "wall", "wall_range"}
    low, high = found["wall_range"]
    assert 0 < low <= found["wall"] <= high


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.setattr("records.RESULTS", tmp_path)
    return Records("settings", {"steps": STEPS})


def test_settings_are_chosen_once(small: Bench, kept: Records) -> None:
    """The best within each limit; what fails is counted, and what is kept is not tried again."""
    tried: list[int] = []

    def install(pipe: Any, parameters: Any) -> Any:
        tried.append(parameters["steps"])
        if parameters["steps"] == 3:
            raise ValueError("three\nis bad")
        return autocache.patched(pipe, "fewer_steps", **parameters)

    groups = {"a": [Variant(install, {"steps": n}) for n in (1, 2, 3)], "b": []}
    found = settings(small, "row", groups, kept)
    assert tried == [1, 2, 3]
    assert settings(small, "row", groups, kept) == found == kept.rows(small.name)["row"]
    assert tried == [1, 2, 3]
    assert summary(found) == {
        "settings_tried": 2,
        "least_compute": 0.25,
        "failed": {"ValueError: three": 1},
    }
    assert {n: chosen(found, n)[1]["settings"]["steps"] for n in (2, 4)} == {2: 2, 4: 1}
    assert chosen({"b": found["b"]}, 2) is None
    assert summary({"c": {"settings_tried": 0, "failed": {"no": 1}}}) == {"does_not_apply": "no"}


def test_a_peer_runs_at_kept_settings(small: Bench) -> None:
    """MindIE-SD's agents, one for each branch of guidance; and it leaves the pipeline as it was."""
    found = methods(small)["MindIE-SD dit_block"]
    if isinstance(found, str):
        assert "wheel" in found
        pytest.skip(found)
    variants = found["MindIE-SD dit_block"]
    before = small.choosing.run(count=True)
    theirs = small.trial(variants[0], {**variants[0].fixed, "step_interval": 2})
    ours = named("dit_block", step_start=0, step_interval=2, block_start=0)
    ours_first = small.trial(ours, ours.fixed)
    assert theirs.compute == pytest.approx(0.5, abs=0.02)
    assert theirs.psnr == pytest.approx(ours_first.psnr, abs=1e-3)
    after = small.choosing.run(count=True)
    assert before.compute == after.compute
    assert all(map(np.array_equal, before.samples, after.samples))


def test_what_nothing_is_chosen_of(small: Bench, kept: Records) -> None:
    """Fewer steps as the compute pays for, and a pipeline that a peer has nothing for."""
    row, found = settled(small, "fewer steps", kept)
    assert row == {}
    assert {n: one.parameters["steps"] for n, one in found.items()} == {2: 14, 3: 9, 4: 7}
    assert all(isinstance(one, Setting) for one in found.values())
    row, found = settled(small, "DeepCache", kept)
    assert (row, found) == ({"does_not_apply": "a helper for UNets alone"}, {})


def test_the_commands_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has rows to work on, timing those that are measured and nothing else."""
    block = re.search(r"```bash\n(python benchmarks/quality.py.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    done: list[tuple[str, Any]] = []
    monkeypatch.setattr("quality.attempt", lambda bench, name, work: done.append((name, work)))
    monkeypatch.setattr("quality.DONE", Records("nowhere", {}))
    monkeypatch.setattr("logging.disable", lambda _: None)
    counts = {}
    for line in block[1].splitlines():
        done.clear()
        command = shlex.split(line, comments=True)
        monkeypatch.setattr(sys, "argv", command[1:])
        quality.main()
        works = {work for _, work in done}
        assert works == {quality.timed if "--time" in command else quality.measure}
        counts[" ".join(command[2:])] = len(done)
    every, *some = counts.values()
    assert len(EVERY) * 30 < every
    assert some == [2, 6, every // len(EVERY)]


def add(folder: Path, number: int) -> None:
    sys.modules["records"].RESULTS = folder
    records = Records("quality", {"steps": 1})
    for nth in range(10):
        records.add("shapes/plain", f"{number} {nth}", {"psnr": math.pi})


def test_two_runs_write_one_file(tmp_path: Path) -> None:
    """No row of either is lost."""
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=add, args=(tmp_path, number)) for number in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    result = json.loads((tmp_path / "quality" / "shapes_plain.json").read_text())
    assert result["steps"] == 1
    assert set(result["rows"]) == {f"{run} {nth}" for run in range(2) for nth in range(10)}
    assert [file.name for file in (tmp_path / "quality").iterdir()] == ["shapes_plain.json"]
