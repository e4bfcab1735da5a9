"""docs/choosing.md and docs/frontier.md say what was measured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import autocache
from scripts import tool

PAGE = tool("choosing_page")
CASES = [(name, guidance) for name in PAGE.PIPELINES for guidance in PAGE.GUIDANCE]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return json.loads(PAGE.RESULT.read_text())


def test_the_pages_are_the_committed_measurement(result):
    """Word for word what the tool writes from the result."""
    found = PAGE.MEASURED.search(PAGE.CHOOSING.read_text())
    assert found[0] == found[1] + PAGE.measured(result) + found[2]
    assert PAGE.FRONTIER.read_text() == PAGE.frontier(result)


@pytest.mark.parametrize(("name", "guidance"), CASES)
def test_what_must_be_beaten_was_measured_everywhere(result, name, guidance):
    """Fewer steps, every library, and what has to beat them."""
    rows = set(result["figures"][name][guidance])
    assert {"fewer steps", "auto", "tuned"} <= rows
    assert {"cache-dit", "diffusers", "DeepCache"} <= {PAGE.group(row) for row in rows}


@pytest.mark.parametrize("nth", range(len(CASES)))
def test_the_page_names_every_strategy_for_every_pipeline(nth):
    """With its figures, or with why it has none."""
    section = PAGE.FRONTIER.read_text().split("\n## ")[nth + 1]
    named = set(re.findall(r"[a-z_]+", section))
    strategies = {info.name for info in autocache.strategies()}
    assert strategies - set(PAGE.ELSEWHERE) <= named


def row(psnr: float, compute: float = 0.5) -> dict[str, Any]:
    return {"psnr": psnr, "psnr_p10": psnr - 2, "compute": compute, "settings": {}}


ROWS = {
    "fewer steps": {"2": row(40), "3": row(35), "4": row(30)},
    "auto": {"2": row(50), "3": row(45), "4": row(41)},
    "cache-dit one": {"2": row(44), "least_compute": 0.4},
    "cache-dit other": {"2": row(46), "3": row(33), "settings_tried": 7},
    "teacache": {"2": row(43), "4": row(20)},
    "pab": {"least_compute": 0.84},
    "DeepCache": {"does_not_apply": "a helper for UNets alone"},
    "attributes": {"plain": 0.9, "auto": 0.89, "tuned": 0.895},
    "few steps": {"8": {"auto": 31.25, "fewer_steps": 29.5}},
}


def test_the_best_of_a_library_at_each_speed_up():
    """By the mean, among the rows that reach it."""
    table = PAGE.short_table(ROWS).splitlines()
    assert "| auto | 50.0 / 48.0 | 45.0 / 43.0 | 41.0 / 39.0 |" in table
    assert "| cache-dit | 46.0 / 44.0 (other) | 33.0 / 31.0 (other) | not reached |" in table
    found = "| any other strategy | 43.0 / 41.0 (teacache) | not reached | 20.0 / 18.0 (teacache) |"
    assert found in table
    assert not any(line.startswith("| DeepCache") for line in table)


def test_all_methods_the_best_first():
    """Sorted by what they are worth at 3 times; the rest is named with the reason."""
    table = PAGE.full_table(ROWS).splitlines()
    names = [line.split("|")[1].strip() for line in table[2:]]
    order = ["auto", "fewer steps", "cache-dit other", "cache-dit one", "teacache"]
    assert names == order
    rest = PAGE.left_out(ROWS)
    assert "- pab: 84% of the compute is the least it leaves" in rest
    assert "- DeepCache: a helper for UNets alone" in rest


def test_the_attributes_are_shares():
    """Of each pipeline that was checked."""
    table = PAGE.attributes_table({"shapes": {"plain": ROWS}})
    assert table.endswith("| 90.0% | 89.0% | 89.5% |")


def test_short_generations_have_a_column_for_each_way():
    """However many there are."""
    table = PAGE.few_steps_table({"shapes": {"plain": ROWS}}).splitlines()
    assert table[0] == "| | 8 steps, auto | 8 steps, half of them |"
    assert table[-1].endswith("| 31.2 | 29.5 |")
