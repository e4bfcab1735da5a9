"""A process that fails, or is elsewhere: the others hear of it, and nobody waits for ever."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from company import parallel_runs
from company.parallel_faults import SHORT
from company.parallel_runner import both, on_the_cpu
from company.parallel_runs import FLUX, READING, TEACACHE

pytestmark = on_the_cpu

IN_TIME = SHORT.total_seconds() + 30
"""The group's timeout, and what a busy machine may add to it."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return both(tmp_path_factory.mktemp("faults"), "faults")["faults"]


@pytest.mark.parametrize("place", ["block", "rule", "weights"])
def test_a_rank_that_raises_does_not_hang_the_other(found: list, place: str) -> None:
    """Rank 1 raises in a block, or in a rule whose numbers rank 0 waits for, or where it has to
    tell whether it computes; rank 0 says who is missing and where, after the group's timeout."""
    waiting, raising = (rank[place] for rank in found)
    assert raising["ended"].startswith("BrokenError")
    assert waiting["ended"].startswith("RankError: rank 0 was to agree with ranks [0, 1] in step ")
    assert "and rank 1 failed or did not get there within the group's timeout" in waiting["ended"]
    assert waiting["took"] < IN_TIME


def test_a_process_that_is_gone_is_noticed_at_once(found: list) -> None:
    """Though the group's timeout is ten minutes."""
    assert "rank 1 failed or did not get there" in found[0]["gone"]["ended"]
    assert found[0]["gone"]["took"] < 60


@pytest.mark.parametrize("which", ["all", "all again"])
def test_after_all_have_raised_the_next_generation_is_as_ever(found: list, which: str) -> None:
    expected = parallel_runs.alone(FLUX, READING[FLUX]["fbcache"])
    for rank in found:
        assert rank[which]["ended"].startswith("BrokenError")
        assert rank[which]["trace"] == expected["trace"]
        assert rank[which]["blocks"] == expected["blocks"]
        torch.testing.assert_close(rank[which]["result"], expected["result"], rtol=0, atol=1e-5)


def test_ranks_in_different_steps_say_so_and_can_start_again(found: list) -> None:
    expected = parallel_runs.alone(FLUX, TEACACHE)
    for rank in found:
        said = rank["elsewhere"]["said"]
        assert "rank 0 is in step 2, rank 1 is in step 1" in said
        assert "let all of them start again" in said
        assert rank["elsewhere"]["trace"] == expected["trace"]
        torch.testing.assert_close(
            rank["elsewhere"]["result"], expected["result"], rtol=0, atol=1e-5
        )
