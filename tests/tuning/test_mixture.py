"""Guidance is found as a sum of branches, or taken for no such sum."""

from __future__ import annotations

import pytest
import torch

from autocache.tuning.mixture import mixture
from autocache.tuning.trajectory import Step, Trajectory

SCALE = 4.0


def pairs(steps: int, batch: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """With and without the condition."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(steps, 2, batch, 4, 6, generator=generator)
    return [(one[0], one[1]) for one in drawn]


def run(steps: list[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> list[Trajectory]:
    latent = torch.zeros_like(steps[0][0])
    return [Trajectory([Step(latent, given, outputs) for given, outputs in steps], [], latent)]


def guided(with_: torch.Tensor, without: torch.Tensor, scale: float = SCALE) -> torch.Tensor:
    return without + scale * (with_ - without)


def test_without_guidance_there_is_one_part() -> None:
    """Of the one branch."""
    found = mixture(run([(one, {"0": one}) for one, _ in pairs(2)]))
    assert found.names == (("0", 0),)
    assert found.shares == ((pytest.approx(1),), (pytest.approx(1),))


def test_a_call_for_each_branch() -> None:
    """The shares are those of the formula, step by step."""
    scales = (4.0, 1.5)
    drawn = zip(pairs(2), scales, strict=True)
    found = mixture(run([(guided(a, b, s), {"cond": a, "uncond": b}) for (a, b), s in drawn]))
    assert found.names == (("cond", 0), ("uncond", 0))
    for shares, scale in zip(found.shares, scales, strict=True):
        assert shares == pytest.approx((scale, 1 - scale), abs=1e-4)


def test_branches_in_one_batch() -> None:
    """Each part is cut out of the batch, and weights are given back in its order."""
    steps = [(guided(a, b), {"0": torch.cat([b, a])}) for a, b in pairs(2)]
    found = mixture(run(steps))
    assert found.names == (("0", 0), ("0", 1))
    assert found.shares[0] == pytest.approx((1 - SCALE, SCALE), abs=1e-4)
    (a, b), (given, outputs) = pairs(2)[0], steps[0]
    parts = found.parts(outputs, given)
    assert torch.equal(parts[0], b)
    assert torch.equal(parts[1], a)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).numpy()
    assert found.by_branch(weights) == {"0": [[1.0, 2.0], [3.0, 4.0]]}


def test_a_part_for_each_branch_goes_back_to_it() -> None:
    """Weights by branch."""
    steps = [(guided(a, b), {"cond": a, "uncond": b}) for a, b in pairs(2)]
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).numpy()
    assert mixture(run(steps)).by_branch(weights) == {"cond": [[1.0, 2.0]], "uncond": [[3.0, 4.0]]}


def _rescaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    mixed = guided(a, b)
    deviation = [one.std(dim=(1, 2), keepdim=True) for one in (a, mixed)]
    return mixed * (0.3 + 0.7 * deviation[0] / deviation[1])


@pytest.mark.parametrize("batched", [False, True])
def test_rescaled_guidance_is_no_sum(batched: bool) -> None:
    """Another factor for each sample: the one part is what the scheduler is given, and its weights
    go for every branch."""
    steps = [
        (_rescaled(a, b), {"0": torch.cat([b, a])} if batched else {"0": a, "1": b})
        for a, b in pairs(3)
    ]
    found = mixture(run(steps))
    assert found.names == ()
    assert found.count == 1
    assert found.shares == ((1.0,),) * 3
    given, outputs = steps[0]
    assert found.parts(outputs, given) == [given]
    weights = torch.tensor([[1.0, 2.0]]).numpy()
    assert found.by_branch(weights) == {name: [[1.0, 2.0]] for name in outputs}


def test_guidance_that_ends_is_no_sum_of_all_branches() -> None:
    """A branch less in the later steps."""
    (a, b), (c, _) = pairs(2)
    found = mixture(run([(guided(a, b), {"0": a, "1": b}), (c, {"0": c})]))
    assert found.names == ()


def test_outputs_of_another_shape_are_no_parts() -> None:
    """A denoiser that predicts its variance too has more channels than the latent."""
    found = mixture(run([(a, {"0": torch.cat([a, b], dim=1)}) for a, b in pairs(2)]))
    assert found.names == ()
    assert found.count == 1
