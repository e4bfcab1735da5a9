"""How guidance mixes the denoiser's outputs into what the scheduler is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from autocache.tuning.trajectory import Step, Trajectory

TOLERANCE = 1e-3
"""Relative error up to which guidance passes for a weighted sum of the branches."""


@dataclass(frozen=True)
class Mixture:
    """What a scheduler is given as a sum of parts, each a guidance branch's output by its share.

    Where guidance is not such a sum, or outputs have another shape than latents, the one part is
    what the scheduler is given, and its weights go for every branch.
    """

    names: tuple[tuple[str, int], ...]
    """Guidance branch and, in it, the part of the batch; empty for the one part."""
    branches: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    """Step by step, the share of each part."""

    @property
    def count(self) -> int:
        return len(self.names) or 1

    def parts(self, outputs: Mapping[str, torch.Tensor], given: torch.Tensor) -> list[torch.Tensor]:
        """The parts of a step's outputs."""
        if not self.names:
            return [given]
        size = given.shape[0]
        return [outputs[branch].narrow(0, nth * size, size) for branch, nth in self.names]

    def by_branch(self, parts: np.ndarray) -> dict[str, list[list[float]]]:
        """Weights of each part, (parts, outputs), as lists for each branch."""
        if not self.names:
            return {branch: parts.tolist() for branch in self.branches}
        found: dict[str, list[list[float]]] = {branch: [] for branch in self.branches}
        for (branch, _), row in zip(self.names, parts.tolist(), strict=True):
            found[branch].append(row)
        return found


def mixture(trajectories: Sequence[Trajectory]) -> Mixture:
    """What guidance was in uncached runs."""
    total = len(trajectories[0].steps)
    branches = tuple(trajectories[0].steps[0].outputs)
    whole = Mixture((), branches, ((1.0,),) * total)
    names = _names(trajectories[0].steps[0])
    if names is None:
        return whole
    found = Mixture(names, branches, whole.shares)
    shares = []
    for nth in range(total):
        share = _shares(found, [trajectory.steps[nth] for trajectory in trajectories])
        if share is None:
            return whole
        shares.append(share)
    return Mixture(names, branches, tuple(shares))


def _names(step: Step) -> tuple[tuple[str, int], ...] | None:
    shape, names = step.given.shape, []
    for branch, output in step.outputs.items():
        if output.shape[1:] != shape[1:] or output.shape[0] % shape[0]:
            return None
        names += [(branch, nth) for nth in range(output.shape[0] // shape[0])]
    return tuple(names)


def _shares(found: Mixture, steps: Sequence[Step]) -> tuple[float, ...] | None:
    square, target, size = 0.0, 0.0, 0.0
    for step in steps:
        try:
            parts = found.parts(step.outputs, step.given)
        except (KeyError, RuntimeError):  # a branch less in this step
            return None
        columns = torch.stack([part.flatten() for part in parts]).double()
        wanted = step.given.flatten().double()
        square = square + (columns @ columns.T).numpy()
        target = target + (columns @ wanted).numpy()
        size += float(wanted @ wanted)
    share = np.linalg.lstsq(square, target, rcond=1e-10)[0]
    missed = size - 2 * share @ target + share @ square @ share
    return tuple(map(float, share)) if missed <= TOLERANCE**2 * size else None
