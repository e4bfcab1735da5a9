"""Skip while the change expected of the output, added up since the last computed step, is small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autocache.runtime.moment import Decision
from autocache.runtime.outputs import flatten, joined
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.runtime.moment import Moment


@dataclass(frozen=True)
class Gain(When):
    """EasyCache's rule. From the last two computed steps follows how much the denoiser's output
    changes with its input, `k = mean|out - out'| / mean|x - x'|`. In each step after that
    `k mean|x - x_before| / mean|out|` is added up, `x_before` being the input of the step before,
    skipped or not; at `threshold` the step is computed and the sum starts again.

    It is stated in inputs and outputs of the whole denoiser, so it goes with `where.Denoiser`. A
    `threshold` of 0 never skips.

    Source: EasyCache, arXiv 2507.02860.
    """

    threshold: float
    history = 2

    def decide(self, moment: Moment) -> Decision:
        latent, memory, store = joined(moment.call.latents), moment.memory, moment.store
        if self.threshold <= 0 or latent is None:
            return Decision(compute=True)
        memory["asked at"] = moment.step
        before = store.get("before", like=latent)
        store.put("before", latent, moment.step)
        gain = memory.get("gain")
        if moment.forced or gain is None or not before:
            memory["sum"] = 0.0
            return Decision(compute=True, keep=True)
        (change,) = moment.call.ranks.means(_change(latent, before[-1].tensor))
        moved = float(change)
        memory["sum"] = total = memory["sum"] + gain * moved
        # Not `>=`: what is no number is computed.
        compute = not total < self.threshold
        if compute:
            memory["sum"] = 0.0
        return Decision(compute, keep=True, distance=total, threshold=self.threshold)

    def overruled(self, moment: Moment) -> None:
        moment.memory["sum"] = 0.0

    def learn(self, moment: Moment) -> None:
        """The relative change of the output per change of the input, where both were computed."""
        latent, memory, store = joined(moment.call.latents), moment.memory, moment.store
        # Of the branches that share a decision only the one that takes it is looked at.
        output = joined(flatten(moment.output)[0][: len(moment.call.latents)])
        if output is None or latent is None or memory.get("asked at") != moment.step:
            return
        inputs, outputs = store.get("input", like=latent), store.get("output", like=output)
        store.put("input", latent, moment.step)
        store.put("output", output, moment.step)
        if not inputs or not outputs:
            return
        changes = (
            _change(output, outputs[-1].tensor),
            _change(latent, inputs[-1].tensor),
            output.float().abs(),
        )
        changed, moved, size = torch.stack(moment.call.ranks.means(*changes)).tolist()
        # An input that stood still tells nothing of the next one.
        gain = changed / moved / size if moved and size else None
        memory["gain"] = gain if gain is None or math.isfinite(gain) else None
        if gain is not None and memory["gain"] is None:
            moment.distrust()


def _change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    if not now.is_floating_point():
        # Tokens of a vocabulary have no distance: the share of those that are others.
        return (now != before).float()
    return (now.float() - before.float()).abs()
