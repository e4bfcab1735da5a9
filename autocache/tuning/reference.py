"""What a workload gives without any cache: what every candidate is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autocache.api import patched
from autocache.errors import AutocacheError
from autocache.metrics import psnr
from autocache.quiet import quiet
from autocache.spec import registry
from autocache.spec.bind import bind
from autocache.when import Always
from autocache.where import Denoiser

if TYPE_CHECKING:
    from autocache.tuning.workload import Workload


@dataclass(frozen=True)
class Reference:
    """The samples of the uncached run, what they cost, and the size of what made them."""

    samples: Sequence[np.ndarray]
    compute: int
    """As `Workload.run` counts it."""
    steps: int
    """Of a generation."""
    blocks: int
    """Of the denoiser, over all its stacks; of several denoisers the fewest; 0 where none is
    known."""

    @classmethod
    def of(cls, workload: Workload) -> Reference:
        """Draw every input once.

        Raises:
            AutocacheError: the denoisers computed nothing that can be counted.
        """
        with quiet(), patched(workload.pipe, when=Always(), where=Denoiser()) as plain:
            drawn = workload.run(count=True)
            steps = 1 + max((record.step for record in plain.stats().steps), default=-1)
        if not drawn.compute or not steps:
            raise AutocacheError("the run called no denoiser whose compute can be counted")
        return cls(drawn.samples, drawn.compute, steps, _blocks(workload))

    def psnr(self, samples: Sequence[np.ndarray]) -> list[float]:
        """Of each sample in dB, `math.inf` where it is the same."""
        pairs = zip(self.samples, samples, strict=True)
        return [psnr(one[None], other[None])[0] for one, other in pairs]


def _blocks(workload: Workload) -> int:
    known = [(registry.find(model), model) for model in workload.denoisers]
    return min((bind(spec, model).block_count for spec, model in known if spec), default=0)
