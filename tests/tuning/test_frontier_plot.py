"""The picture of the frontier: what is in the file, and what is refused."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.frontier_plot import Point, plot, spread

POINTS = {
    "tuned": [Point(1 / 2, 61.0, 55.0), Point(1 / 3, 52.0, 47.0), Point(1 / 4, 49.0, 44.0)],
    "auto": [Point(1 / 2, 53.0, 49.0), Point(1 / 3, 47.6, 42.0), Point(1 / 4, 44.6, 40.0)],
    "fewer steps": [Point(1 / 4, 40.7), Point(1 / 2, 48.3), Point(1 / 3, 43.0)],
}


def texts(path: Path) -> list[str]:
    """What can be read in an SVG."""
    root = ET.parse(path).getroot()
    return [
        "".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_names_and_what_is_measured_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "frontier.svg"
    plot(POINTS, path, title="shapes, 28 steps", chosen=POINTS["tuned"][1], emphasis=["tuned"])
    said = texts(path)
    assert {"tuned", "auto", "fewer steps", "shapes, 28 steps"} < set(said)
    assert {"mean PSNR per picture (dB)", "speed-up in compute", "2×", "4×"} < set(said)
    assert "chosen: 3.00×, 52.0 dB" in said
    assert "faint: 10th percentile" in said


def test_compute_is_an_axis_as_well(tmp_path: Path) -> None:
    path = tmp_path / "frontier.svg"
    plot({"fewer steps": POINTS["fewer steps"]}, path, against="compute")
    said = texts(path)
    assert {"compute, share of the uncached run", "50%", "25%"} < set(said)
    assert "faint: 10th percentile" not in said
    assert not any(text.startswith("chosen") for text in said)


def test_a_png_is_a_picture_with_room_for_every_name(tmp_path: Path) -> None:
    few, many = tmp_path / "few.png", tmp_path / "many.PNG"
    plot(POINTS, few)
    plot({f"strategy {n}": [Point(1 / 2, 50 - n), Point(1 / 3, 45 - n)] for n in range(40)}, many)
    with Image.open(few) as small, Image.open(many) as large:
        assert small.format == large.format == "PNG"
        assert large.height > 1.5 * small.height
        pixels = np.asarray(small.convert("RGB"))
    assert (pixels == (0x00, 0x72, 0xB2)).all(axis=-1).any()


def test_the_same_points_are_the_same_file(tmp_path: Path) -> None:
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    plot(POINTS, first)
    plot({name: several[::-1] for name, several in POINTS.items()}, second)
    assert first.read_bytes() == second.read_bytes()


def test_pictures_that_do_not_differ_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "frontier.svg"
    plot({**POINTS, "nothing skipped": [Point(1.0, math.inf)]}, path)
    assert "nothing skipped" not in texts(path)
    with pytest.raises(ParameterError, match="no point to draw"):
        plot({"nothing skipped": [Point(1.0, math.inf)]}, path)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"frontier.jpg: expected .* in \.svg or \.png"):
        plot(POINTS, tmp_path / "frontier.jpg")
    with pytest.raises(ParameterError, match="emphasis names tund, without any points"):
        plot(POINTS, tmp_path / "frontier.svg", emphasis=["tund"])
    with pytest.raises(ParameterError, match="auto: compute=0; expected a share above 0"):
        plot({"auto": [Point(0, 50.0)]}, tmp_path / "frontier.svg")
    assert not list(tmp_path.iterdir())


def test_a_missing_matplotlib_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AutocacheError, match=r"pip install 'autocache\[report\]'"):
        plot(POINTS, tmp_path / "frontier.svg")


def test_nothing_is_imported_before_something_is_drawn() -> None:
    code = (
        "import sys, autocache.tuning.frontier_plot; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(
    wanted=st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1, max_size=12),
    gap=st.floats(0.001, 0.2),
)
def test_labels_keep_their_order_and_their_distance(wanted: dict[str, float], gap: float) -> None:
    heights = spread(wanted, gap)
    assert heights.keys() == wanted.keys()
    order = sorted(wanted, key=lambda name: wanted[name])
    room = min(gap, 1 / max(1, len(wanted) - 1))
    for below, above in itertools.pairwise(order):
        assert heights[above] - heights[below] >= room - 1e-9
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in heights.values())


def test_labels_with_room_stay_where_they_are_wanted() -> None:
    assert spread({"a": 0.2, "b": 0.5, "c": 0.9}, 0.1) == pytest.approx(
        {"a": 0.2, "b": 0.5, "c": 0.9}
    )
    assert spread({"a": 0.5, "b": 0.5}, 0.1) == pytest.approx({"a": 0.45, "b": 0.55})
