"""The notebook runs from its first cell to its last, and is committed with what it shows."""

from __future__ import annotations

import base64
import io
import re
import shutil
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from scripts import ROOT, tool

TOUR = ROOT / "examples" / "tour.ipynb"
LARGEST = 1_500_000
"""Bytes of the committed file."""


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(TOUR, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy, run in a kernel of its own and in an empty folder."""
    copy = tmp_path_factory.mktemp("tour") / TOUR.name
    shutil.copy(TOUR, copy)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        return tool("run_notebook").execute(copy)


def outputs(notebook: Any) -> list[tuple[str, Any]]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(cell.id, output) for cell in cells for output in cell.outputs]


def pictures(notebook: Any) -> dict[str, np.ndarray]:
    """The pictures by the cell that shows them, (height, width, 3)."""
    found = {
        cell: output["data"]["image/png"]
        for cell, output in outputs(notebook)
        if "image/png" in output.get("data", {})
    }
    return {
        cell: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for cell, data in found.items()
    }


def said(notebook: Any, cell: str) -> str:
    return "".join(o.text for name, o in outputs(notebook) if name == cell and "text" in o)


def test_it_runs_and_shows_what_it_says(executed: Any) -> None:
    """No cell fails; the cache skips and is near, and off again nothing is left."""
    assert not [output for _, output in outputs(executed) if output.output_type == "error"]
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    assert float(re.findall(r"plain: ([\d.]+) dB", said(executed, "patch"))[0]) > 40
    run, total = map(
        int, re.findall(r"block calls run: +(\d+) of (\d+)", said(executed, "stats"))[0]
    )
    assert 0 < run <= total / 2
    shares = [float(share) for share in re.findall(r"([\d.]+)% of", said(executed, "threshold"))]
    assert len(shares) == 6
    assert shares == sorted(shares, reverse=True)
    assert said(executed, "off") == "patched: False\nsame as before: True\n"


def test_pictures_come_out(executed: Any) -> None:
    """Each figure has more in it than a background."""
    found = pictures(executed)
    assert set(found) == {"plain", "beside", "report", "threshold", "compose"}
    for cell, picture in found.items():
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50, cell


def test_it_is_committed_with_its_pictures(committed: Any, executed: Any) -> None:
    """What a reader sees without running it is there, and tells nothing of the machine."""
    nbformat.validate(committed)
    text = TOUR.read_text()
    assert len(text) < LARGEST
    assert set(pictures(committed)) == set(pictures(executed))
    shown = "".join(str(output.get("text", "")) for _, output in outputs(committed))
    assert shown
    assert not re.search(r"(?:^|[\s'\"])(?:/\w+){2,}|[A-Z]:\\|\d s\b", shown)
    names = [
        [name for name, output in outputs(notebook) if "text" in output]
        for notebook in (committed, executed)
    ]
    assert names[0] == names[1]


def test_it_is_its_own_source(committed: Any, executed: Any) -> None:
    """Running it changes outputs alone."""
    assert [cell.source for cell in committed.cells] == [cell.source for cell in executed.cells]
    assert not [cell for cell in committed.cells if "execution" in cell.metadata]
