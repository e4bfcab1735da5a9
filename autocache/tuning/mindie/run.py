"""MindIE's searches on a live pipeline: draw with every candidate and compare raw samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from autocache.api import patch
from autocache.errors import ParameterError, nearest
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.tuning.mindie.attention import generations_attention, search_attention
from autocache.tuning.mindie.blocks import generations_dit_block, search_dit_block
from autocache.when import Always
from autocache.where import Where

if TYPE_CHECKING:
    from autocache.tuning.mindie.found import Found, Tell
    from autocache.tuning.workload import Workload

Search = Literal["dit_block", "attention"]
_SEARCHES: dict[str, tuple[Any, Any]] = {
    "dit_block": (search_dit_block, generations_dit_block),
    "attention": (search_attention, generations_attention),
}


class PublishedSearch:
    """One of MindIE's searches, ready to run on a workload; making it draws the reference.

    The error of a candidate is the mean over the inputs of the mean squared difference from the
    reference, of raw samples as the pipeline returns them.

    Args:
        workload: what is drawn.
        search: "dit_block" or "attention", which is also the strategy searched for.
        ratio: the speed-up to reach, by the search's own account of the cost.
        stack: for "dit_block", the path of one block stack to search in; the ratio is then of the
            work in that stack. Without it, all blocks of all stacks, counted through.
        share: for "attention", the part of the denoiser's work that is in attention, 1 to count
            attention alone as published; measured by default, by drawing the first input twice.
        memory: errors known from an earlier run on the same workload, by candidate; new ones are
            written to it, so that an interrupted search goes on where it was.
        **options: further arguments of the search: `interval`, `starts`, `upstream_rounding`;
            `starts`, `wider`.

    Raises:
        ParameterError: there is no such search or stack, an option is wrong, or no candidate
            reaches the ratio.
        DoesNotApplyError: the model has no block stack, or no attention that could be reused.
    """

    def __init__(
        self,
        workload: Workload,
        search: Search,
        *,
        ratio: float,
        stack: str | None = None,
        share: float | None = None,
        memory: MutableMapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        if search not in _SEARCHES:
            raise ParameterError(f"no search {search!r}{nearest(search, _SEARCHES)}")
        self.workload = workload
        self.search = search
        self.memory = {} if memory is None else memory
        self.reference, self.steps = _drawn(workload)
        self.options = {"steps": self.steps, "ratio": ratio, **options}
        self.offset: dict[str, int] = {}
        if search == "dit_block":
            count, offset = _blocks(workload, stack)
            self.options["blocks"] = count
            self.offset = {"offset": offset}
        else:
            known = attention_share(workload, self.steps) if share is None else share
            self.options["share"] = known
        self.generations: int = _SEARCHES[search][1](**self.options)
        """The most that are drawn of each input, with the one that was."""

    def run(self, tell: Tell | None = None) -> list[Found]:
        """The three candidates of least error, best first; `tell` hears of each as it is known."""
        search = _SEARCHES[self.search][0]
        return search(self.evaluate, tell=tell, **self.options, **self.offset)

    def evaluate(self, parameters: Mapping[str, Any]) -> float:
        """The error of one candidate, drawn unless the memory has it."""
        key = json.dumps(dict(parameters), sort_keys=True)
        if key not in self.memory:
            with patch(self.workload.pipe, self.search, **parameters):
                drawn = self.workload.run().samples
            self.memory[key] = mean_squared_error(self.reference, drawn)
        return self.memory[key]


def mean_squared_error(reference: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> float:
    """Mean over the samples of the mean squared difference, 0 and up, 0 where they are the same."""
    pairs = zip(reference, drawn, strict=True)
    return float(np.mean([np.square(one.astype(np.float64) - two).mean() for one, two in pairs]))


def attention_share(workload: Workload, steps: int) -> float:
    """Part of the denoisers' compute that `attention` spares in a step that reuses, 0 to 1.

    Counted on the first input, drawn once as it is and once with every second step reusing.

    Raises:
        DoesNotApplyError: no denoiser has attention that could be reused.
    """
    first = workload.among(0, 1)
    schedule: dict[str, Any] = {"step_start": 0, "step_interval": 2, "step_end": steps - 1}
    with patch(workload.pipe, "attention", **schedule):
        spent = first.run(pictures=False, count=True).compute or 0
    whole = first.run(pictures=False, count=True).compute or 0
    if not whole:
        raise ParameterError("the denoiser's compute cannot be counted; give the share yourself")
    return (1 - spent / whole) * steps / (steps // 2)


class _Nowhere(Where):
    """No place at all: the steps are recorded, and nothing is skipped."""

    needs_spec: ClassVar[bool] = False
    skips: ClassVar[bool] = False


def _drawn(workload: Workload) -> tuple[list[np.ndarray], int]:
    """The samples without a cache, and the number of steps that a generation takes."""
    with patch(workload.pipe, when=Always(), where=_Nowhere()) as plain:
        samples = workload.run().samples
        return samples, 1 + max(record.step for record in plain.stats().steps)


def _blocks(workload: Workload, stack: str | None) -> tuple[int, int]:
    """How many blocks there are to choose from, and how many of the model are before them."""
    model = workload.denoisers[0]
    bound = bind(registry.resolve(None, model), model)
    found = bound.stack(stack)
    return (bound.block_count, 0) if stack is None else (len(found.blocks), found.offset)
