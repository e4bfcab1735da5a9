"""Four processes: context parallelism and FSDP2 at once, and numbers exchanged by all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from company import parallel_runs
from company.parallel_grid import NUMBERS, whole
from company.parallel_runner import both, on_the_cpu
from company.parallel_runs import FLUX, READING

pytestmark = on_the_cpu

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return both(tmp_path_factory.mktemp("grid"), "grid", processes=4)["grid"]


def alone(seed: int) -> dict[str, Any]:
    return parallel_runs.alone(FLUX, READING[FLUX]["fbcache"], seed)


def test_two_share_a_prompt_and_two_share_weights(found: Found) -> None:
    """All four compute the same blocks, those of one prompt get one result, and skipped blocks'
    weights are not fetched."""
    ran = [rank["both"] for rank in found]
    assert sorted(one["prompt"] for one in ran) == [0, 0, 1, 1]
    assert len({one["trace"] for one in ran}) == 1
    assert len({one["blocks"] for one in ran}) == 1
    for prompt in range(2):
        first, second = (one["result"] for one in ran if one["prompt"] == prompt)
        assert torch.equal(first, second)
    assert alone(0)["trace"] != alone(1)["trace"]
    parts = next(n for n in range(10) if alone(0)["trace"][n] != alone(1)["trace"][n])
    assert ran[0]["trace"][: parts + 1] == alone(0)["trace"][:parts] + "C"
    assert ran[0]["blocks"] < 6 * 10
    assert ran[0]["fetches"] == ran[0]["blocks"] + 1


def test_copies_of_sharded_weights_do_not_wait_for_each_other(found: Found) -> None:
    """Ranks 0 and 1 share weights, and 2 and 3; what the others do is nothing to them."""
    traces = [rank["copies"]["trace"] for rank in found]
    assert traces[0] == traces[1]
    assert traces[2] == traces[3]
    # One exchange per step with one other process: a message there and one back.
    assert {rank["copies"]["exchanges"] for rank in found} == {20}


def test_who_is_left_out_of_a_group_works_alone(found: Found) -> None:
    for rank, ran in enumerate(found):
        assert ran["outside"]["trace"] == alone(0)["trace"]
        assert (ran["outside"]["exchanges"] > 0) == (rank < 2)


@pytest.mark.parametrize("way", ["pairs", "gathered"])
def test_numbers_are_those_of_the_whole_on_every_rank(found: Found, way: str) -> None:
    """However unequal the shares, and bit for bit the same on all."""
    numbers = [rank[way] for rank in found]
    first = numbers[0]
    for other in numbers[1:]:
        assert other["mean"] == first["mean"]
        assert other["largest"] == first["largest"]
        assert torch.equal(other["by sample"], first["by sample"])
    assert first["mean"] == pytest.approx(float(whole().mean()), abs=1e-6)
    assert first["largest"] == float(whole().max())
    assert first["by sample"].shape == (NUMBERS,)
    torch.testing.assert_close(first["by sample"].float(), whole().mean((1, 2)))
    assert first["order"] == [[0.0], [1.0], [2.0], [3.0]]
    called = {"all_gather"} if way == "gathered" else {"isend", "recv"}
    assert set(first["calls"]) == called


@pytest.mark.parametrize("way", ["pairs", "gathered"])
def test_what_is_not_a_number_on_one_rank_is_none_on_any(found: Found, way: str) -> None:
    for rank in found:
        assert all(number != number for number in rank[way]["spoilt"])


@pytest.mark.parametrize("way", ["pairs", "gathered"])
def test_all_compute_where_one_has_to_or_keeps_something_else(found: Found, way: str) -> None:
    for rank in found:
        assert rank[way]["votes"] == [False, True, True]
