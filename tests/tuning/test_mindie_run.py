"""MindIE's searches on the bundled pipeline: real runs, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import autocache
from autocache import demo
from autocache.demo.prompts import held_out
from autocache.errors import AutocacheError, ParameterError
from autocache.tuning.mindie.run import PublishedSearch, attention_share
from autocache.tuning.workload import Workload

STEPS = 8
BLOCKS: dict[str, Any] = {"ratio": 1.35, "starts": (0, 2)}


@pytest.fixture(scope="module")
def workload() -> Workload:
    pipe = diffusers.FluxPipeline.from_pretrained(demo.path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "max_sequence_length": 24, "num_inference_steps": STEPS}
    return Workload(pipe, held_out(2), call=call)


class Heard:
    """Takes the place of a progress bar: the trials of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, int] = {}
        self.errors: list[float] = []

    def __call__(self, label: str, trials: int) -> Heard:
        self.stages[label] = trials
        return self

    def __enter__(self) -> Callable[[Any, Any], None]:
        return lambda study, trial: self.errors.append(trial.value)

    def __exit__(self, *raised: object) -> None: ...


def error(workload: Workload, strategy: str, parameters: dict[str, Any]) -> float:
    """By its definition."""
    whole = np.stack(workload.run().samples)
    with autocache.patch(workload.pipe, strategy, **parameters):
        drawn = np.stack(workload.run().samples)
    return float(((whole.astype(np.float64) - drawn) ** 2).mean())


def test_the_range_found_is_the_best_of_all_tried_and_reaches_the_ratio(
    workload: Workload,
) -> None:
    published = PublishedSearch(workload, "dit_block", **BLOCKS)
    heard = Heard()
    found = published.run(progress=heard)
    assert len(found) == 3
    assert sorted(heard.errors)[:3] == [one.error for one in found]
    assert len(heard.errors) == sum(heard.stages.values()) < published.generations
    assert list(heard.stages) == ["dit_block: places", "dit_block: lengths"]
    best = found[0]
    assert best.error == pytest.approx(error(workload, "dit_block", best.parameters), rel=1e-3)
    assert best.error > 0
    with autocache.patch(workload.pipe, "dit_block", **best.parameters) as patch:
        workload.run()
        assert patch.stats().blocks.share <= 1 / 1.35
    assert not autocache.is_patched(workload.pipe)


def test_the_attention_schedule_found_reaches_the_ratio_in_compute(workload: Workload) -> None:
    published = PublishedSearch(workload, "attention", ratio=1.15)
    heard = Heard()
    found = published.run(progress=heard)
    assert len(heard.errors) + 1 == published.generations
    assert found[0].error == min(heard.errors)
    whole = workload.run(count=True).compute
    with autocache.patch(workload.pipe, "attention", **found[0].parameters):
        spent = workload.run(count=True).compute
    assert whole is not None
    assert spent is not None
    assert whole / spent >= 1.15


def test_the_share_of_attention_is_that_of_its_modules(workload: Workload) -> None:
    """Projections and scores of 16 latent and 24 text tokens, in four blocks of two streams and
    eight that project the output together with the feed-forward."""
    tokens, width = 16 + 24, 128
    projection, scores = 2 * tokens * width**2, 4 * tokens**2 * width
    attention = 4 * (4 * projection + scores) + 8 * (3 * projection + scores)
    whole = workload.among(0, 1).run(pictures=False, count=True).compute
    assert whole is not None
    share = attention_share(workload, STEPS)
    assert share * whole == pytest.approx(STEPS * attention)


def test_the_published_count_takes_attention_for_all_there_is(workload: Workload) -> None:
    published = PublishedSearch(workload, "attention", ratio=1.15, share=1)
    assert {one["step_interval"] for one in published.plan.candidates()} == {2}


def test_one_stack_is_searched_by_itself(workload: Workload) -> None:
    single = "single_transformer_blocks"
    published = PublishedSearch(workload, "dit_block", stack=single, **BLOCKS)
    found = published.run()
    # Four blocks are before them, and the first of the eight is never skipped.
    assert all(one.parameters["block_start"] >= 5 for one in found)
    assert all(one.parameters["block_end"] <= 12 for one in found)
    with pytest.raises(ParameterError, match="did you mean 'single_transformer_blocks'"):
        PublishedSearch(workload, "dit_block", stack=single[:-1], **BLOCKS)


def test_an_interrupted_search_goes_on_where_it_was(workload: Workload, tmp_path: Path) -> None:
    storage = tmp_path / "studies.db"
    drawn = 0

    class Interrupted(PublishedSearch):
        limit = 5

        def evaluate(self, parameters: Any) -> float:
            nonlocal drawn
            if drawn == self.limit:
                raise KeyboardInterrupt
            drawn += 1
            return super().evaluate(parameters)

    first = Interrupted(workload, "dit_block", **BLOCKS)
    with pytest.raises(KeyboardInterrupt):
        first.run(storage=storage)
    again = Interrupted(workload, "dit_block", **BLOCKS)
    again.limit = 1000
    heard = Heard()
    found = again.run(storage=storage, progress=heard)
    assert drawn == sum(heard.stages.values())
    assert again.run(storage=storage) == found
    assert drawn == sum(heard.stages.values())


def test_a_storage_does_not_answer_for_other_inputs(workload: Workload, tmp_path: Path) -> None:
    storage = tmp_path / "studies.log"
    PublishedSearch(workload, "attention", ratio=1.15, starts=(1,)).run(storage=storage)
    other = PublishedSearch(workload.among(0, 1), "attention", ratio=1.15, starts=(1,))
    with pytest.raises(AutocacheError, match="searches something else: inputs was"):
        other.run(storage=storage)


def test_what_is_no_published_search_is_refused(workload: Workload) -> None:
    with pytest.raises(ParameterError, match="no search 'ditblock'; did you mean 'dit_block'"):
        PublishedSearch(workload, "ditblock", ratio=1.2)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="feasible ratios are above 1 and up to"):
        PublishedSearch(workload, "dit_block", ratio=3, starts=(0, 2))
