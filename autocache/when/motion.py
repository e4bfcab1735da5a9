"""How much a video's content moves: what moves more is computed more often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autocache.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from autocache.runtime.moment import Moment
    from autocache.spec.schema import Spec

USUAL = 0.385
"""The motion at which nothing changes."""
POWER = 8
GRADIENT = 10.0


@dataclass(frozen=True)
class Motion:
    """AdaCache's motion regularisation: a factor on the measured change.

    The probe's tokens are frames, one after the other. Between frames `stride` apart, the motion is
    `m = |late - early| / (|late| + |early|)`, the mean over the strides, weighed as
    `(m / 0.385)^8`. Ten times its change per step since the last computed step, as an absolute
    value, is added. Outside of `steps` (both included) the motion is 1; so it is where no two
    frames are a stride apart.

    `frames` is the number of frames; without it, the latent's `axis` divided by `patch`. `steps`
    are for a generation of `of` steps and are rescaled to another total.

    Source: AdaCache, arXiv 2411.02397.
    """

    frames: int | None = None
    axis: int | None = None
    patch: int = 1
    strides: tuple[int, ...] = (1,)
    steps: tuple[int, int] | None = None
    of: int | None = None

    def counted_in(self, steps: int) -> Motion:
        """The same, its `steps` being of a generation of so many; a published one knows its own."""
        return replace(self, of=self.of or steps)

    def weight(self, probe: torch.Tensor, moment: Moment, gap: int) -> float:
        """The factor, for a probe (batch, tokens, channels) `gap` steps after the one before."""
        motion = self._motion(probe, moment) if self._looks(moment) else 1.0
        before = moment.memory.get("motion", 1.0)
        if math.isfinite(motion):
            moment.memory["motion"] = motion
        return motion + abs(GRADIENT * (motion - before) / gap)

    def _looks(self, moment: Moment) -> bool:
        if self.steps is None:
            return True
        scale = moment.total / self.of if moment.total and self.of else 1.0
        first, last = (round(step * scale) for step in self.steps)
        return first <= moment.step <= last

    def _motion(self, probe: torch.Tensor, moment: Moment) -> float:
        probe = moment.call.ranks.tokens(probe)
        tokens = probe.shape[1]
        frames = self.frames or self._frames(moment)
        if self.frames and tokens % self.frames:
            raise ParameterError(
                f"frames={self.frames} does not divide the {tokens} tokens there are"
            )
        if not frames or tokens % frames:
            return 1.0
        measured = []
        for stride in self.strides:
            apart = stride * (tokens // frames)
            if apart >= tokens:
                continue
            late, early = probe[:, apart:].float(), probe[:, :-apart].float()
            sizes = (late - early).abs(), late.abs(), early.abs()
            moved, *both = moment.call.ranks.means(*sizes)
            if sum(both) > 0:
                measured.append(float(moved / sum(both)))
        if not measured:
            return 1.0
        return (sum(measured) / len(measured) / USUAL) ** POWER

    def _frames(self, moment: Moment) -> int:
        if moment.call.frames:
            return moment.call.frames // self.patch
        latent = moment.call.latent
        if self.axis is None or latent is None or latent.ndim != 5:
            return 0
        return latent.shape[self.axis] // self.patch


def frames_of(spec: Spec, config: Mapping[str, Any]) -> tuple[int | None, int]:
    """The axis of a model's latents that counts frames, if any does, and how many make a token."""
    axis = {"BCFHW": 2, "BFCHW": 1, "BFHWC": 1}.get(spec.latent_layout or "")
    size = config.get("patch_size")
    patch = size[0] if isinstance(size, (list, tuple)) else config.get("patch_size_t")
    return axis, patch or 1
