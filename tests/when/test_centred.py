"""The schedule of DeepCache that is densest around a step."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocache.when import Centred

GOLDEN = [
    (50, 5, 15, "0 5 9 13 17 21 26 31 37 43", "0 6 11 14 15 19 24 29 35 42"),
    (50, 10, 15, "0 9 17 26 37", "0 11 15 24 35"),
    (
        50,
        3,
        15,
        "0 3 6 8 11 13 15 17 20 22 25 28 32 35 38 42 46",
        "0 4 7 10 12 14 15 16 18 20 23 26 29 33 37 41 45",
    ),
    (50, 20, 15, "0 15 29", None),
    (25, 3, 8, "0 3 5 8 9 12 15 18 21", None),
]


@pytest.mark.parametrize(("total", "interval", "center", "published", "signed"), GOLDEN)
def test_golden_lists(
    total: int, interval: int, center: int, published: str, signed: str | None
) -> None:
    """The published code's lists at power 1.4, and those of a power that keeps the sign."""
    rule = Centred(interval, center)
    assert rule.steps(total) == tuple(map(int, published.split()))
    if signed is not None:
        rule = Centred(interval, center, signed=True)
        assert rule.steps(total) == tuple(map(int, signed.split()))


def upstream() -> Any:
    """The function itself; its module needs a diffusers of its time."""
    package = importlib.util.find_spec("DeepCache")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "sd", "pipeline_stable_diffusion.py")
    name = "sample_from_quad_center"
    nodes = ast.parse(path.read_text()).body
    found = next(n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name)
    scope: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope[name]


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_every_list_is_upstreams() -> None:
    """Wherever upstream finds a schedule ours is the same; where it gives up ours is uniform."""
    reference, given_up = upstream(), 0
    for total in (8, 10, 20, 28, 50, 100):
        for interval in (2, 3, 5, 10, 20):
            for center in (0, 1, 2, 8, 15, 25, 40):
                for power in (1.2, 1.4, 1.8):
                    count = -(-total // interval)
                    try:
                        expected = tuple(map(int, reference(total, count, center, power)[0]))
                    except ValueError:
                        given_up += 1
                        expected = tuple(range(0, total, interval))
                    assert Centred(interval, center, power).steps(total) == expected
    assert given_up


def test_the_default_centre_is_that_of_the_published_example() -> None:
    """Step 15 of 50, and as early in other schedules."""
    assert Centred(5).steps(50) == Centred(5, 15).steps(50)
    assert Centred(5).steps(20) == Centred(5, 6).steps(20)
