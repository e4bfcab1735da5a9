"""AUTOCACHE_REPORT: scripts that know nothing of us leave a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import autocache

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "infer.py"
PROMPTS = ["a large red circle", "<b>a small blue square"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**kept, **quiet, "AUTOCACHE": "teacache:threshold=0.1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_script_leaves_a_report_with_what_it_drew(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    file = tmp_path / "new" / "report.json"
    given = ["--model", autocache.demo.path("shapes"), "--prompts", tmp_path / "prompts.txt"]
    done = run(
        SCRIPT, *given, "--out", tmp_path / "out", "--steps", "6", AUTOCACHE_REPORT=str(file)
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    (stats,) = report["runs"]
    assert stats["strategy"] == "teacache"
    # One step beforehand, then six.
    assert [step["step"] for step in stats["steps"]] == [0, *range(6)]
    captions = [entry["caption"] for entry in report["pictures"]["shown"]]
    assert captions[-2:] == PROMPTS
    assert report["devices"] == ["cpu"]


def test_a_typo_in_the_ending_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a circle")
    given = ["--model", autocache.demo.path("shapes"), "--prompts", tmp_path / "prompts.txt"]
    done = run(SCRIPT, *given, "--out", tmp_path, AUTOCACHE_REPORT=str(tmp_path / "report.htlm"))
    assert done.returncode != 0
    assert "did you mean '.html'" in done.stderr


def test_a_pipeline_that_the_program_lets_go_of_is_gone_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code = f"""
import gc, weakref
from diffusers import FluxPipeline
pipe = FluxPipeline.from_pretrained({autocache.demo.path("shapes")!r})
pipe("a", num_inference_steps=3, height=64, width=64, max_sequence_length=24, output_type="latent")
gone = weakref.ref(pipe.transformer)
del pipe
gc.collect()
assert gone() is None
"""
    done = run("-c", code, AUTOCACHE_REPORT=str(file))
    assert done.returncode == 0, done.stderr
    assert "no report" not in done.stderr
    report = json.loads(file.read_text())
    assert report["runs"][0]["passes"] == 3
    assert report["pictures"] is None
