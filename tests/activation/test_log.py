"""Quiet as a library; AUTOCACHE_LOG shows decisions."""

from __future__ import annotations

import logging

import pytest
from pipelines.tiny_pipelines import make, run

import autocache
from autocache import errors


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    logger = logging.getLogger("autocache")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def _said(capsys, strategy: str = "easycache", **parameters) -> list[str]:
    pipe = make("flux")
    pipe.set_progress_bar_config(disable=True)
    capsys.readouterr()
    with autocache.patched(pipe, strategy, **parameters):
        run(pipe, steps=8)
    return [line for line in capsys.readouterr().err.splitlines() if "autocache" in line]


def test_a_library_is_quiet(monkeypatch, capsys):
    """Also where it has something to say, which stats say."""
    monkeypatch.delenv("AUTOCACHE_LOG", raising=False)
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("autocache").handlers)
    assert not _said(capsys, warmup_steps=8)


def test_debug_prints_each_decision(monkeypatch, capsys):
    monkeypatch.setenv("AUTOCACHE_LOG", "debug")
    lines = _said(capsys, "fbcache", threshold=0.3)
    steps = [line for line in lines if " step " in line]
    assert len(steps) == 8
    assert any("against threshold 0.3" in line for line in steps)
    assert all("computed" in line or "reused" in line for line in steps)


def test_a_wrong_level_names_the_right_ones(monkeypatch):
    monkeypatch.setenv("AUTOCACHE_LOG", "debgu")
    with pytest.raises(errors.ParameterError, match=r"did you mean.*debug.*debug, info, warning"):
        autocache.patch(make("flux"), "fora")
