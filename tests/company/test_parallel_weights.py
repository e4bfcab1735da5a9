"""FSDP2: weights spread over processes that have a prompt each."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from company import parallel_runs
from company.parallel_runner import both, on_the_cpu
from company.parallel_runs import FIXED, FLUX, STEPS, WAN
from company.parallel_weights import CHOICES, INSIDE, LIMIT, PIPELINES, TIGHT
from pipelines.tiny_pipelines import make, run

import autocache
import tiny
from autocache.runtime.root import session_of
from autocache.when import Mask

pytestmark = on_the_cpu

ORDERS = ("before", "after")
"""Patched before the model was sharded, or after."""
OWN_STEPS = sorted(set(CHOICES) - set(INSIDE) - set(FIXED))
"""Those that choose steps by what they measure, and skip whole blocks."""

Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return both(tmp_path_factory.mktemp("weights"), "weights", "weights_more", "pipelines")


@functools.cache
def alone(key: str, seed: int = 0) -> dict[str, Any]:
    name, choice = CHOICES[key]
    return parallel_runs.alone(name, choice, seed)


@functools.cache
def plain(name: str, seed: int) -> torch.Tensor:
    return parallel_runs.alone(name, None, seed)["result"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", CHOICES)
def test_all_ranks_compute_the_same_blocks(found: Found, key: str, order: str) -> None:
    """Each has its own prompt; one that skipped a block would leave the others without weights."""
    one, other = (rank[f"{key} {order}"] for rank in found["weights"])
    if key not in INSIDE:
        assert one["trace"] == other["trace"]
        assert one["blocks"] == other["blocks"]
    assert "s" in one["trace"] or key == "wan invariant"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", CHOICES)
def test_with_one_prompt_it_is_as_in_one_process(found: Found, key: str, order: str) -> None:
    for rank in found["weights"]:
        ran = rank[f"{key} {order}"]["same prompt"]
        assert ran["trace"] == alone(key)["trace"]
        assert ran["blocks"] == alone(key)["blocks"]
        assert torch.equal(ran["result"], alone(key)["result"])


@pytest.mark.parametrize("key", OWN_STEPS)
def test_a_rank_that_has_to_compute_makes_all_compute(found: Found, key: str) -> None:
    """Up to where the prompts first part, which is the first step on which they disagree: there
    all compute."""
    pair = [alone(key, seed)["trace"] for seed in range(2)]
    together = found["weights"][0][f"{key} after"]["trace"]
    part = next((n for n in range(STEPS) if pair[0][n] != pair[1][n]), STEPS)
    assert together[:part] == pair[0][:part]
    assert together[part : part + 1] in ("", "C")


def test_the_prompts_would_part(found: Found) -> None:
    """So that the test above can tell."""
    parting = [key for key in OWN_STEPS if alone(key)["trace"] != alone(key, 1)["trace"]]
    assert len(parting) >= 4


@pytest.mark.parametrize("key", ["teacache", "fbcache", "wan teacache", "wan seacache"])
def test_what_is_computed_together_is_right_for_each(found: Found, key: str) -> None:
    """Each rank's result is that of one process that computes the steps they agreed on."""
    name, (strategy, params) = CHOICES[key]
    for seed, rank in enumerate(found["weights"]):
        ran = rank[f"{key} after"]
        model, inputs = tiny.build(name)
        autocache.patch(model, strategy, **params)
        session = session_of(model)
        assert session is not None
        recipe = session.parts[0].recipe
        steps = [n for n, done in enumerate(ran["trace"]) if done == "C"]
        mask = Mask.computing(steps, STEPS, history=3)
        autocache.patch(model, when=mask, where=recipe.where, how=recipe.how)
        expected = parallel_runs.ran(name, model, inputs, seed)
        assert expected["blocks"] == ran["blocks"]
        assert torch.equal(ran["result"], expected["result"])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", INSIDE)
def test_nobody_asks_anybody_where_no_weights_are_left_out(
    found: Found, key: str, order: str
) -> None:
    """Attention and feed-forward inside a block, whose weights come with the block's."""
    for seed, rank in enumerate(found["weights"]):
        ran = rank[f"{key} {order}"]
        assert ran["exchanges"] == 0
        assert ran["trace"] == alone(key, seed)["trace"]
        assert ran["attention"] == alone(key, seed)["attention"]
        assert torch.equal(ran["result"], alone(key, seed)["result"])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", sorted(set(CHOICES) - set(INSIDE)))
def test_the_weights_of_skipped_blocks_are_not_fetched(found: Found, key: str, order: str) -> None:
    """One fetch for each block that ran and one for the rest of the model, which keeps its own. A
    probe that runs a part of the first block fetches that block's in each step."""
    probes = STEPS if CHOICES[key][1][0] in ("teacache", "customcache") else 0
    inside = CHOICES[key][1][0] == "taylorseer"
    for rank in found["weights"]:
        ran = rank[f"{key} {order}"]
        every = rank[f"{CHOICES[key][0]} plain"]["fetches"]
        assert ran["fetches"] == (every if inside else ran["blocks"] + 1 + probes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", CHOICES)
def test_unpatched_it_is_sharded_as_if_never_patched(found: Found, key: str, order: str) -> None:
    name = CHOICES[key][0]
    for seed, rank in enumerate(found["weights"]):
        ran = rank[f"{key} {order}"]
        assert ran["units"]
        assert ran["classes"] == rank[f"{name} plain"]["classes"]
        assert torch.equal(ran["unpatched"], plain(name, seed))


def test_off_it_is_bit_identical(found: Found) -> None:
    for seed, rank in enumerate(found["weights_more"]):
        assert torch.equal(rank["off"]["result"], plain(FLUX, seed))


@pytest.mark.parametrize("case", ["between", "fault"])
def test_sharded_after_a_generation_or_run_again_after_a_failure(found: Found, case: str) -> None:
    """As when nothing of the kind had happened."""
    for rank, usual in zip(found["weights_more"], found["weights"], strict=True):
        expected = usual["fbcache after"]
        assert rank[case]["trace"] == expected["trace"]
        assert torch.equal(rank[case]["result"], expected["result"])
    assert {rank["fault"]["ended"] for rank in found["weights_more"]} == {"interrupted"}


def test_another_strategy_on_a_sharded_model(found: Found) -> None:
    for rank, usual in zip(found["weights_more"], found["weights"], strict=True):
        expected = usual["dbcache after"]
        assert rank["replaced"]["trace"] == expected["trace"]
        assert torch.equal(rank["replaced"]["result"], expected["result"])


@pytest.mark.parametrize(("case", "choice"), [("fora", "fora"), ("pab", "pab")])
def test_attention_that_is_a_unit_of_its_own(found: Found, case: str, choice: str) -> None:
    """Then its weights are left out, so all ranks agree; and what is left out is not fetched."""
    for seed, rank in enumerate(found["weights_more"]):
        ran = rank[f"{case} in units"]
        assert ran["exchanges"] > 0
        assert ran["trace"] == alone(choice, seed)["trace"]
        assert torch.equal(ran["result"], alone(choice, seed)["result"])
        blocks = 6 * STEPS
        assert ran["fetches"] == blocks + alone(choice, seed)["attention"] + 1 < 2 * blocks


def test_modules_that_decide_for_themselves_run_where_they_are_units(found: Found) -> None:
    """`invariant` may see the same inputs on one rank and other ones on another."""
    for seed, rank in enumerate(found["weights_more"]):
        ran = rank["invariant in units"]
        assert ran["exchanges"] == 0
        assert torch.equal(ran["result"], plain(WAN, seed))


def test_another_size_on_each_rank(found: Found) -> None:
    one, other = (rank["sizes"] for rank in found["weights_more"])
    assert one["result"].shape != other["result"].shape
    assert one["trace"] == other["trace"]
    assert 0 < one["trace"].count("s") < STEPS
    assert one["blocks"] == other["blocks"] < 3 * STEPS


@pytest.mark.parametrize(("kind", "strategy"), PIPELINES)
def test_whole_pipelines_under_guidance(found: Found, kind: str, strategy: str) -> None:
    """Every process leaves out the same blocks of the same calls; where the steps are known
    beforehand, each gets what one process gets."""
    one, other = (rank[f"{kind} {strategy}"] for rank in found["pipelines"])
    assert one["steps"] == other["steps"]
    assert one["block"] == other["block"]
    assert one["attention"] < 3 * len(one["steps"])
    assert not torch.equal(one["result"], other["result"])
    if strategy in ("fastercache", "taylorseer"):
        for seed, ran in enumerate((one, other)):
            pipe = make(kind)
            autocache.patch(pipe, strategy)
            assert torch.equal(ran["result"], run(pipe, steps=12, guided=True, seed=seed))


def test_room_for_other_places_on_each_rank(found: Found) -> None:
    """What is missing on one rank would be computed there and wait for the other's weights for
    ever; so all compute all, and each keeps to its limit."""
    for rank in found["weights_more"]:
        assert rank["limited"]["trace"] == "C" * STEPS
        assert rank["limited"]["attention"] == 3 * STEPS
        assert 0 < rank["limited"]["peak"] <= LIMIT


def test_room_for_the_same_places_on_each_rank(found: Found) -> None:
    for seed, rank in enumerate(found["weights_more"]):
        model, inputs = tiny.build(WAN)
        autocache.patch(model, "fora", memory_limit=TIGHT, memory_fit="fewer")
        expected = parallel_runs.ran(WAN, model, inputs, seed)
        ran = rank["limited alike"]
        assert ran["attention"] == expected["attention"] < 3 * STEPS
        assert ran["trace"] == expected["trace"]
        assert torch.equal(ran["result"], expected["result"])
        assert 0 < ran["peak"] <= TIGHT


def test_schedules_that_differ_by_rank(found: Found) -> None:
    """One takes ten steps and the other twice five; FSDP asks for as many calls, not for the same
    steps."""
    one, other = (rank["schedules"] for rank in found["weights_more"])
    assert one["trace"] == other["trace"]
    assert len(one["trace"]) == STEPS
    assert "s" in one["trace"]
    assert torch.isfinite(one["result"]).all()
    assert torch.isfinite(other["result"]).all()
