"""Several processes on one prompt, or on one each: which of them decide together."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from company import parallel_runs, parallel_worker
from company.parallel_runner import both, on_the_cpu
from company.parallel_runs import FIXED, FLUX, QWEN, READING, WAN, patched
from company.parallel_worker import LIMIT
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import autocache
import tiny
from autocache.errors import ParameterError

pytestmark = on_the_cpu

SPLIT = [(name, key) for name, choices in READING.items() for key in choices]
NEAR = {"rtol": 0, "atol": 1e-5}

Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    names = ("data_parallel", "context_parallel", "guidance_parallel", "tensor_parallel")
    return both(tmp_path_factory.mktemp("parallel"), *names)


@functools.cache
def alone(name: str, key: str, seed: int = 0) -> dict[str, Any]:
    return parallel_runs.alone(name, {**READING[name], **FIXED}[key], seed)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same steps, as many blocks, and the same result up to rounding."""
    for what in ("trace", "blocks", "attention"):
        assert one[what] == other[what], what
    torch.testing.assert_close(one["result"], other["result"], **NEAR)


@pytest.mark.parametrize("key", [*READING[FLUX], *FIXED])
def test_processes_with_a_prompt_each_know_nothing_of_each_other(found: Found, key: str) -> None:
    """Each does what a process alone does, bit for bit, and none sends anything."""
    for rank, ran in enumerate(found["data_parallel"]):
        expected = alone(FLUX, key, rank)
        assert ran[key]["trace"] == expected["trace"]
        assert ran[key]["blocks"] == expected["blocks"]
        assert torch.equal(ran[key]["result"], expected["result"])


def test_processes_with_a_prompt_each_decide_differently() -> None:
    """So that the test above can tell."""
    differing = [
        key for key in READING[FLUX] if alone(FLUX, key)["trace"] != alone(FLUX, key, 1)["trace"]
    ]
    assert len(differing) >= 4


@pytest.mark.parametrize(("name", "key"), SPLIT)
def test_context_parallel_decides_as_one_process(found: Found, name: str, key: str) -> None:
    """Each process has half of the tokens, and both skip what one process with all of them does."""
    expected = alone(name, key)
    assert {"C", "s"} == set(expected["trace"])
    for ran in found["context_parallel"]:
        same(ran[f"{name} {key}"], expected)
        assert ran[f"{name} {key}"]["exchanges"] > 0


@pytest.mark.parametrize(("name", "key"), SPLIT)
def test_context_parallel_and_no_patch_any_more(found: Found, name: str, key: str) -> None:
    plain = parallel_runs.alone(name, None)["result"]
    for ran in found["context_parallel"]:
        torch.testing.assert_close(ran[f"{name} {key}"]["unpatched"], plain, **NEAR)


@pytest.mark.parametrize(
    ("name", "key"), [(FLUX, "fbcache"), (WAN, "fbcache"), (WAN, "teacache"), (QWEN, "fbcache")]
)
def test_context_parallel_after_the_patch(found: Found, name: str, key: str) -> None:
    for ran in found["context_parallel"]:
        same(ran[f"{name} {key} patched before"], alone(name, key))


@pytest.mark.parametrize("name", [FLUX, WAN])
@pytest.mark.parametrize("key", FIXED)
def test_fixed_schedules_send_nothing(found: Found, name: str, key: str) -> None:
    """Under context parallelism; what they would send was an error."""
    for ran in found["context_parallel"]:
        same(ran[f"{name} {key} fixed"], parallel_runs.alone(name, FIXED[key]))


def test_context_parallel_with_a_limit_on_memory(found: Found) -> None:
    """Each process has room for the same places of its half as one process for those of the whole
    that has twice as much."""
    model, inputs = patched(WAN, ("fora", {}), memory_limit=2 * LIMIT, memory_fit="fewer")
    expected = parallel_runs.ran(WAN, model, inputs)
    assert expected["attention"] > parallel_runs.alone(WAN, FIXED["fora"])["attention"]
    for ran in found["context_parallel"]:
        same(ran["limited"], expected)
        # A limit can leave one process with other places: that is asked, the schedule is not.
        assert ran["limited"]["exchanges"] > 0


def _guided(key: str, run: Any) -> dict[str, Any]:
    model, inputs = patched(FLUX, READING[FLUX][key])
    result = parallel_worker.guided(model, inputs, run)
    traces = {"0": "", "1": ""}
    for step in autocache.stats(model).steps:
        traces[step.branch] += "C" if step.action == "computed" else "s"
    return {"result": result, "traces": traces}


@pytest.mark.parametrize("key", READING[FLUX])
def test_a_branch_on_each_process_decides_as_both_in_one_batch(found: Found, key: str) -> None:
    """With `group=`, both processes do what one does that runs both branches in one call."""
    expected = _guided(key, parallel_worker.in_one_batch)
    for ran in found["guidance_parallel"]:
        assert ran[f"{key} together"]["trace"] == expected["traces"]["0"]
        result = ran[f"{key} together"]["result"]
        torch.testing.assert_close(result, expected["result"], **NEAR)


@pytest.mark.parametrize("key", sorted(set(READING[FLUX]) - {"auto"}))
def test_a_branch_on_each_process_may_decide_alone(found: Found, key: str) -> None:
    """Without, each decides for its branch, as in a process that calls the model for each; `auto`
    there decides for both in the first call."""
    expected = _guided(key, parallel_worker.by_calls)
    for rank, ran in enumerate(found["guidance_parallel"]):
        assert ran[f"{key} alone"]["trace"] == expected["traces"][str(rank)]
        result = ran[f"{key} alone"]["result"]
        torch.testing.assert_close(result, expected["result"], **NEAR)


def test_branches_on_their_own_decide_differently(found: Found) -> None:
    """So that the tests above can tell."""
    one, other = found["guidance_parallel"]
    assert one["fbcache alone"]["trace"] != other["fbcache alone"]["trace"]
    assert one["fbcache together"]["trace"] == other["fbcache together"]["trace"]


@pytest.mark.parametrize("key", ["teacache", "fbcache", "seacache"])
def test_tensor_parallel_decides_as_one_process(found: Found, key: str) -> None:
    for ran in found["tensor_parallel"]:
        same(ran[key], alone(WAN, key))
        assert ran[key]["exchanges"] > 0


def test_a_group_is_a_process_group_or_a_mesh_of_one_dimension(tmp_path: Path) -> None:
    model, inputs = tiny.build(FLUX)
    with pytest.raises(ParameterError, match="group='ranks' is no group of processes"):
        autocache.patch(model, "fbcache", group="ranks")
    assert not autocache.is_patched(model)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        grid = init_device_mesh("cpu", (1, 1), mesh_dim_names=("ring", "ulysses"))
        with pytest.raises(ParameterError, match=r"2 dimensions.*mesh\['ulysses'\]"):
            autocache.patch(model, "fbcache", group=grid)
        for group in (grid["ulysses"], dist.group.WORLD, DeviceMesh("cpu", [0])):
            autocache.patch(model, "fbcache", group=group, **READING[FLUX]["fbcache"][1])
            with parallel_runs.Silence(forbidden=True):
                ran = parallel_runs.ran(FLUX, model, inputs)
            # One rank has nobody to agree with.
            assert torch.equal(ran["result"], alone(FLUX, "fbcache")["result"])
    finally:
        dist.destroy_process_group()
