"""The page in headless Chromium, as a reader sees it: desktop and phone, light and dark.

`make browser` installs the browser of package.json with npm, into the folder that the environment
variable AUTOCACHE_BROWSER names, or else beside the interpreter.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autocache
from reporting import PROMPTS, draw, pipeline

HERE = Path(__file__).parent
MODULES = Path(os.environ.get("AUTOCACHE_BROWSER") or Path(sys.prefix) / "browser")
NODE = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if NODE is None:
        pytest.skip("no node on this machine, so no browser to look at the page with")
    if not (MODULES / "node_modules" / "puppeteer-core").is_dir():
        pytest.skip(f"no browser in {MODULES}; make browser installs one")
    folder = tmp_path_factory.mktemp("browser")
    pipe = pipeline()
    before = draw(pipe)
    with autocache.patched(pipe, "teacache", threshold=0.4) as patch:
        after = draw(pipe)
        given = {"images": after, "baseline": before, "captions": PROMPTS}
        page = autocache.report(patch, folder / "report.html", **given)
    done = subprocess.run(
        [NODE, HERE / "look.mjs", page, folder],
        env={**os.environ, "BROWSER_MODULES": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_view_is_there(looked: list[dict[str, Any]]) -> None:
    views = [(view["width"], view["scheme"]) for view in looked]
    assert views == [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
    assert all(Path(view["screenshot"]).stat().st_size > 10_000 for view in looked)


def test_nothing_is_logged_and_nothing_loaded(looked: list[dict[str, Any]]) -> None:
    for view in looked:
        assert view["problems"] == []
        assert view["requests"] == []


def test_nothing_hangs_over_the_edge(looked: list[dict[str, Any]]) -> None:
    for view in looked:
        assert view["across"] <= view["width"]


def test_dark_is_dark_and_light_is_light(looked: list[dict[str, Any]]) -> None:
    for view in looked:
        levels = [int(part) for part in view["background"][4:-1].split(",")]
        assert max(levels) < 64 if view["scheme"] == "dark" else min(levels) > 192


def test_the_text_and_the_pictures_are_there(looked: list[dict[str, Any]]) -> None:
    for view in looked:
        for said in (
            "of the block calls were run",
            "What was done, by step and place",
            "Probe distance by step",
            "Memory by place",
            "PSNR",
            PROMPTS[1],
        ):
            assert said in view["text"]
        assert (view["images"], view["broken"]) == (6, 0)
