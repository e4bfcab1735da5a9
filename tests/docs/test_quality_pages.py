"""docs/quality.md and docs/choosing.md name everything, and show rows as they are."""

from __future__ import annotations

import json
import re
from typing import Any

import choosing_page
import pytest
import quality_page

import autocache
import quality_peers
import quality_rows
from quality_rows import Case

CASES = list(quality_rows.cases())
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_pipeline_was_measured_both_ways() -> None:
    """With and without guidance."""
    assert len(CASES) == len(quality_rows.PIPELINES) * len(quality_rows.GUIDANCE)


@each_case
def test_what_must_be_beaten_was_measured(case: Case) -> None:
    """Fewer steps, and what has to beat them with nothing chosen, on at least 64 prompts."""
    assert case.head["prompts"] >= 64
    assert {"plain", "fewer steps", "auto"} <= set(case.rows)


def test_every_library_was_measured() -> None:
    """On a pipeline that it applies to, and not just refused."""
    measured = {
        quality_rows.group(name)
        for case in CASES
        for speedup in quality_rows.SPEEDUPS
        for name in quality_rows.cells(case.rows, speedup)
    }
    assert set(quality_rows.LIBRARIES) <= measured


@each_case
def test_what_is_given_reaches_every_speed_up(case: Case) -> None:
    """And no measured setting spends much more than the speed-up allows."""
    for name in {"fewer steps", "auto", "tuned"} & set(case.rows):
        assert all(speedup in case.rows[name] for speedup in quality_rows.SPEEDUPS)
    for speedup in quality_rows.SPEEDUPS:
        for name, cell in quality_rows.cells(case.rows, speedup).items():
            assert cell["compute"] <= 1.15 / int(speedup), name


@pytest.mark.parametrize("nth", range(len(CASES)))
def test_the_page_names_every_strategy_for_every_pipeline(nth: int) -> None:
    """With its figures, or with why it has none."""
    page = quality_page.PAGE.read_text()
    section = page[page.index(f"\n## {CASES[nth].title}") :].split("\n## ")[1]
    named = set(re.findall(r"[a-z_]+", section))
    strategies = {info.name for info in autocache.strategies()}
    assert strategies - set(quality_rows.ELSEWHERE) <= named
    rows = {name for case in CASES for name in case.rows} - quality_rows.NO_METHODS
    assert [name for name in rows if name not in section] == []


def cell(psnr: float, compute: float = 0.5, **further: Any) -> dict[str, Any]:
    likeness = {"ssim": 0.99, "ssim_p10": 0.95, "attributes": 0.89}
    return {"psnr": psnr, "psnr_p10": psnr - 2, "compute": compute, **likeness, **further}


TIME = {"cpu": 0.52, "wall": 0.55, "wall_range": [0.4, 0.9]}
ROWS = {
    "plain": {"attributes": 0.9, "macs_per_prompt": 1000},
    "fewer steps": {"2": cell(40), "3": cell(35), "4": cell(30)},
    "auto": {"2": cell(50, time=TIME), "3": cell(45), "4": cell(41)},
    "tuned": {"3": cell(47, attributes=0.895)},
    "cache-dit": {"2": cell(46, way="dmd"), "3": cell(33), "settings_tried": 7},
    "diffusers TaylorSeer": {"2": cell(44), "least_compute": 0.4},
    "diffusers first block": {"2": cell(43.4)},
    "taylorseer": {"2": cell(43), "4": cell(20)},
    "fbcache": {"2": cell(43)},
    "pab": {"least_compute": 0.84},
    "DeepCache": {"does_not_apply": "a helper for UNets alone"},
    "few steps": {"8": {"auto": 31.25, "fewer_steps": 29.5}},
}
CASE = Case("shapes_plain", "shapes (Flux)", {"timed": {"turns": 5}}, ROWS)


def test_the_best_of_a_library_at_each_speed_up() -> None:
    """By the mean, among the rows that reach it, with the way it goes about it."""
    table = choosing_page.short_table(ROWS).splitlines()
    assert "| auto | 50.0 / 48.0 | 45.0 / 43.0 | 41.0 / 39.0 |" in table
    assert "| cache-dit | 46.0 / 44.0 (dmd) | 33.0 / 31.0 | not reached |" in table
    assert "| diffusers | 44.0 / 42.0 (TaylorSeer) | not reached | not reached |" in table
    others = "43.0 / 41.0 (taylorseer) | not reached | 20.0 / 18.0 (taylorseer)"
    assert f"| any other strategy | {others} |" in table
    assert not any(line.startswith("| DeepCache") for line in table)


def test_all_methods_the_best_first() -> None:
    """Sorted by what they are worth at 3 times; the rest is named with the reason."""
    table = quality_page.table(ROWS, quality_page._with_way).splitlines()
    names = [line.split("|")[1].strip() for line in table[2:]]
    assert names[:5] == ["tuned", "auto", "fewer steps", "cache-dit", "diffusers TaylorSeer"]
    rest = quality_page.left_out(ROWS, [*ROWS, "diffusers PAB"])
    assert "- pab: 84% of the compute is the least it leaves" in rest
    assert "- DeepCache: a helper for UNets alone" in rest
    assert re.search(r"teacache.*, diffusers PAB: not measured here yet", rest)


def test_a_way_is_named_where_it_is_not_the_method() -> None:
    """Settings of a method go by its name if nothing else tells them apart."""
    figures = {"psnr": 46.0, "psnr_p10": 44.0}
    assert quality_page._with_way("cache-dit", {**figures, "way": "dmd"}) == "46.0 / 44.0 (dmd)"
    for given in (figures, {**figures, "way": "dbcache"}):
        assert quality_page._with_way("dbcache", given) == "46.0 / 44.0"


def test_time_is_shown_of_what_was_timed() -> None:
    """Processor time, the clock and its range; a row without any is left out."""
    head = {**CASE.head, "timed": {"turns": 5, "prompts": 8, "command": "c"}}
    *_, words, table = quality_page._tables(Case(CASE.name, CASE.title, head, ROWS))
    assert "median of 5 with 8 prompts" in words
    assert table.splitlines()[2:] == ["| auto | 0.52 / 0.55 (0.40 to 0.90) | - | - | - |"]


def test_the_attributes_are_shares() -> None:
    """Of each pipeline."""
    assert choosing_page.attributes_table([CASE]).endswith("| 90.0% | 89.0% | 89.5% |")


def test_short_generations_have_a_column_for_each_way() -> None:
    """However many there are."""
    table = choosing_page.few_steps_table({"shapes": ROWS["few steps"]}).splitlines()
    assert table[0] == "| | 8 steps, auto | 8 steps, half of them |"
    assert table[-1].endswith("| 31.2 | 29.5 |")


def test_a_peer_that_is_ahead_is_named() -> None:
    """Of the same method by more than prompts vary; and of everything, by anything."""
    assert quality_peers.ahead([CASE]) == {
        "diffusers TaylorSeer": ["shapes_plain 2x 44.0 to 43.0"],
    }
    assert quality_peers.overall([CASE]).startswith("At no speed-up")
    assert "names what is not yet" in quality_peers.overall([CASE])
    assert "no row" not in quality_peers.overall([CASE])
    silent = Case("b", "B", {}, {"auto": ROWS["auto"]})
    assert quality_peers.overall([CASE, silent]).endswith("no row of another library yet for: B.")
    better = {**ROWS, "cache-dit": {"4": cell(48)}}
    found = quality_peers.overall([Case("a", "A", {}, better)])
    assert found == "- A, 4x: cache-dit before auto, 48.0 to 41.0 dB"


def test_every_peer_that_is_ahead_has_a_reason() -> None:
    """And nothing is explained that is not so."""
    assert set(quality_peers.ahead(CASES)) == set(quality_peers.REASONS)


def test_the_settings_of_every_row_are_kept() -> None:
    """What was measured can be measured again without choosing again."""
    for case in CASES:
        file = quality_rows.RESULTS.parent / "settings" / f"{case.name}.json"
        kept = json.loads(file.read_text())["rows"]
        for name, row in case.rows.items():
            if "settings_tried" in row:
                assert row["settings_tried"] == sum(
                    one["settings_tried"] for one in kept[name].values()
                )
