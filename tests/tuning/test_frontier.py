"""What each compute buys on a pipeline of one's own."""

from __future__ import annotations

import logging

import diffusers
import pytest
import torch

import autocache
from autocache import demo
from autocache.demo.prompts import held_out
from autocache.errors import ParameterError
from autocache.tuning import frontier as module
from autocache.tuning.frontier import FITTED, frontier
from autocache.tuning.reference import Reference
from autocache.tuning.strategies import measured, search_strategies
from autocache.tuning.trajectory import record
from autocache.tuning.tune import split

STEPS = 8
CALL = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": STEPS}
INPUTS = held_out(3)


@pytest.fixture(scope="module")
def pipe() -> diffusers.FluxPipeline:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_point_for_each_speed_up(pipe, caplog):
    """Of fewer steps, `auto` and a fitted schedule, on the held-out inputs; the pipeline is left as
    it was, and the cost is told first."""
    profile = autocache.Profile(
        strategy="fora", measured={"compute": 0.4, "psnr": {"mean": 30.0, "p10": 28.0}}
    )
    with autocache.patched(pipe, "fora"), caplog.at_level(logging.INFO, "autocache"):
        found = frontier(pipe, INPUTS, speedups=(2, 4), profile=profile, call=CALL)
        assert autocache.is_patched(pipe)
    assert set(found.points) == {"fewer steps", "auto", FITTED}
    for points in found.points.values():
        assert [point.compute for point in points] == [0.5, 0.25]
        assert points[0].psnr > points[1].psnr > 10
        assert all(point.p10 is not None and point.p10 <= point.psnr for point in points)
    assert (found.chosen.compute, found.chosen.psnr, found.chosen.p10) == (0.4, 30.0, 28.0)
    _, kept = split(pipe, INPUTS, None, call=CALL, seed=0, batch=8)
    half = measured(kept, Reference.of(kept), "fewer_steps", {"steps": STEPS // 2})
    assert found.points["fewer steps"][0].psnr == pytest.approx(half.psnr)
    # Three plain and recorded, three times three quarters held out, and three quarters fitted.
    assert caplog.records[0].message == "frontier: about 15 full generations"


def test_what_was_searched_has_its_line(pipe, tmp_path, monkeypatch):
    """The strategies of the storage, measured again on what is held out; recordings that lie beside
    it are used."""
    storage = str(tmp_path / "s.db")
    searched, _ = split(pipe, INPUTS, None, call=CALL, seed=0, batch=8)
    search_strategies(searched, ["fora", "auto"], trials=6, speedup=2, storage=storage)
    record(searched, folder=tmp_path / "s.db.recorded")
    calls = []
    handle = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    spent = []

    def watched(*args, **options):
        calls.clear()
        spent.append((record(*args, **options), len(calls))[1])
        return record(*args, **options)

    monkeypatch.setattr(module, "record", watched)
    found = frontier(pipe, INPUTS, speedups=(2,), call=CALL, storage=storage)
    handle.remove()
    assert spent == [0]
    assert len(found.points["auto"]) > 1
    assert found.points["fora"]
    assert found.chosen is None


def test_a_line_that_cannot_be_had_is_left_out(pipe, caplog, monkeypatch):
    """And the log says why."""
    transformer = pipe.transformer
    forward = transformer.forward
    monkeypatch.setattr(transformer, "forward", lambda *a, **k: (*forward(*a, **k), torch.zeros(1)))
    with caplog.at_level(logging.WARNING, "autocache"):
        found = frontier(pipe, INPUTS[:1], speedups=(2,), call=CALL)
    assert set(found.points) == {"fewer steps", "auto"}
    assert any("no schedule can be fitted: the denoiser returns 2 tensors" in one.message
               for one in caplog.records)  # fmt: skip


@pytest.mark.parametrize("speedups", [(), (1.0,), (2.0, float("nan"))])
def test_speed_ups_are_above_one(pipe, speedups):
    """Said before anything is drawn."""
    with pytest.raises(ParameterError, match="expected numbers above 1"):
        frontier(pipe, INPUTS, speedups=speedups, call=CALL)
