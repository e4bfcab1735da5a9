"""Profiles written by hand for the bundled pipeline, at their own number of steps and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import autocache
from autocache import demo
from autocache.metrics import psnr

STEPS, LONGER = 8, 12
HEAD = "schema_version: 1\nstrategy: {}\nparameters: {}\n"
MADE_FOR = f"""
made_for:
  models:
    - class: diffusers.models.transformers.transformer_flux:FluxTransformer2DModel
  steps: {STEPS}
  scheduler: {{class: FlowMatchEulerDiscreteScheduler, predicts: flow}}
  latents: [[16, 16]]
  guidance: {{calls: 1}}
"""
STRATEGIES = {
    "auto": {"speedup": 2.5},
    "teacache": {"coefficients": [1.0, 0.0], "threshold": 0.3},
    "dit_block": {"step_start": 2, "step_interval": 3, "step_end": 6},
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The bundled pipeline."""
    loaded = diffusers.FluxPipeline.from_pretrained(demo.path())
    loaded.set_progress_bar_config(disable=True)
    return loaded


OTHERS = {
    (LONGER, 1.0): f"the generation has {LONGER} steps, not {STEPS}",
    (STEPS, 4.0): "a step has 2 denoiser calls, not 1",
}
"""Generations that the profiles were not made for, and in what they differ."""


@pytest.fixture(scope="module")
def plain(pipe: Any) -> dict[tuple[int, float], np.ndarray]:
    """What they draw without a cache."""
    return {given: _draw(pipe, *given) for given in OTHERS}


def _draw(pipe: Any, steps: int = STEPS, guidance: float = 1.0) -> np.ndarray:
    noise = torch.Generator().manual_seed(3)
    negative = {"negative_prompt": "", "true_cfg_scale": guidance} if guidance > 1 else {}
    return pipe(
        "two red circles",
        num_inference_steps=steps,
        height=32,
        width=32,
        generator=noise,
        output_type="np",
        **negative,
    ).images


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("profile ")]
    caplog.clear()
    return told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_profile_serves_its_generation_and_adapts_to_others(
    strategy: str,
    pipe: Any,
    plain: dict[tuple[int, float], np.ndarray],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To another number of steps, to guidance, to another scheduler: a schedule runs about the same
    share of the blocks, a threshold what it measures; the picture is close to the plain one, and
    each is told."""
    file = tmp_path / f"{strategy}.yaml"
    file.write_text(HEAD.format(strategy, STRATEGIES[strategy]) + MADE_FOR)
    with autocache.patched(pipe, strategy, **STRATEGIES[strategy]) as patch:
        expected = _draw(pipe)
        share = patch.stats().blocks.share
    assert 0.3 < share < 0.9
    with autocache.patched(pipe, file) as patch:
        assert np.array_equal(_draw(pipe), expected)
        assert _told(caplog) == []
        for (steps, guidance), reason in OTHERS.items():
            patch.reset()
            drawn = _draw(pipe, steps, guidance)
            apart = 0.3 if strategy == "teacache" else 0.1
            assert patch.stats().blocks.share == pytest.approx(share, abs=apart)
            assert psnr(plain[steps, guidance], drawn)[0] > 18
            (told,) = _told(caplog)
            assert reason in told
    lcm = diffusers.FlowMatchLCMScheduler.from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", lcm)
    with autocache.patched(pipe, file):
        _draw(pipe)
    (told,) = _told(caplog)
    assert "the scheduler is FlowMatchLCMScheduler, not FlowMatchEuler" in told
