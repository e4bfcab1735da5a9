"""What the wheel puts beside the package, byte for byte."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.mark.parametrize("name", ["_autocache_boot.py", "autocache.pth", "autocache.start"])
def test_start_up_files_equal_the_repository(wheel: zipfile.ZipFile, name: str) -> None:
    """Code that runs at interpreter start is exactly what a reviewer saw."""
    assert wheel.read(name) == (ROOT / "startup" / name).read_bytes()


def test_no_other_file_runs_at_start_up(wheel: zipfile.ZipFile) -> None:
    """One .pth, one .start, one boot module at the root, and nothing else."""
    roots = {name.partition("/")[0] for name in wheel.namelist()}
    information = {name for name in roots if name.endswith(".dist-info")}
    started = {"_autocache_boot.py", "autocache.pth", "autocache.start"}
    assert roots - information == {"autocache", *started}
    assert [name for name in wheel.namelist() if name.endswith((".pth", ".start"))] == [
        "autocache.pth",
        "autocache.start",
    ]


def test_data_travels_with_the_package(wheel: zipfile.ZipFile) -> None:
    """Specs, the example and the bundled pipelines are in the wheel as they are in the tree."""
    names = set(wheel.namelist())
    specs = {f"autocache/model_specs/{path.name}" for path in (ROOT / "model_specs").glob("*.yaml")}
    assert specs
    assert {*specs, "autocache/model_specs/spec.schema.json"} <= names
    assert "autocache/demo/infer.py" in names
    models = (ROOT / "autocache/demo/models").rglob("*.*")
    assert {path.relative_to(ROOT).as_posix() for path in models if path.is_file()} <= names
    assert not [name for name in names if name.startswith("examples/") or "shapes_" in name]
