"""A strategy that does nothing says so, once."""

from __future__ import annotations

import logging

import pytest
from pipelines.tiny_pipelines import make, run

import autocache


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "skipped nothing" in record.message]


@pytest.mark.parametrize("name", ["flux", "wan", "sd"])
def test_a_generation_without_a_skip_is_told_once(name, caplog):
    """What warms up for as long as the generation lasts does not pass for a cache."""
    pipe = make(name)
    patched = autocache.patched(pipe, "easycache", warmup_steps=8)
    with caplog.at_level(logging.WARNING, "autocache"), patched as p:
        for _ in range(2):
            run(pipe, steps=8)
        assert p.stats().denoiser.share == 1.0
    assert len(said(caplog)) == len(p.denoisers)
    assert all(
        line.startswith("easycache(warmup_steps=8) skipped nothing in ") for line in said(caplog)
    )


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [("fora", 8), ("invariant", 8), ("fewer_steps", 16), ("easycache", 3)],
)
def test_what_skips_or_is_too_short_to_tell_is_silent(strategy, steps, caplog):
    """Also where what is skipped is exact, or whole steps, or the run only warms up."""
    pipe = make("flux")
    with caplog.at_level(logging.WARNING, "autocache"), autocache.patched(pipe, strategy):
        run(pipe, steps=steps)
    assert not said(caplog)
