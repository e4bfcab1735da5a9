"""The bundled pipeline, and the plain script that draws with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autocache import demo
from autocache.demo.prompts import held_out
from autocache.demo.run import infer_script
from autocache.errors import AutocacheError


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(AutocacheError, match=r"no bundled pipeline 'shape'.*'shapes'"):
        demo.path("shape")
    with pytest.raises(AutocacheError, match="expected one of: shapes"):
        demo.path("flux")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("shapes", "reinstall autocache, or train it with tools/train_demo.py"),
        ("shapes_sd", "comes with the repository and not.* a checkout, whose tools/train_sd.py"),
        ("shapes_wan", "comes with the repository and not.* a checkout, whose tools/train_wan.py"),
    ],
)
def test_missing_files_are_told_with_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    monkeypatch.setattr(demo, "_BUNDLED" if name == "shapes" else "_EXAMPLES", tmp_path)
    with pytest.raises(AutocacheError, match=f"'{name}' is not in this installation.*{remedy}"):
        demo.path(name)


def test_the_path_needs_no_torch() -> None:
    code = "import sys, autocache.demo; autocache.demo.path(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_script_knows_nothing_of_autocache() -> None:
    assert "autocache" not in infer_script().read_text()


def test_the_script_draws_what_it_is_told(tmp_path: Path) -> None:
    listing = tmp_path / "prompts.txt"
    listing.write_text("\n".join(held_out(3)))
    plain = {k: v for k, v in os.environ.items() if not k.startswith("AUTOCACHE")}

    def draw(name: str, *more: str) -> np.ndarray:
        arguments = [
            "--model",
            demo.path(),
            "--prompts",
            str(listing),
            "--out",
            str(tmp_path / name),
        ]
        command = [sys.executable, str(infer_script()), *arguments, "--steps", "3", *more]
        subprocess.run(command, check=True, env=plain, capture_output=True)
        return np.load(tmp_path / name / "images.npy")

    together, alone = draw("together"), draw("alone", "--batch", "2")
    assert together.shape == (3, 64, 64, 3)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=2e-3)
    assert len(list((tmp_path / "together").glob("*.png"))) == 3
    timing = json.loads((tmp_path / "alone" / "timing.json").read_text())
    assert timing["seconds"] > 0
    assert (timing["pictures"], timing["steps"], timing["batch"]) == (3, 3, 2)
