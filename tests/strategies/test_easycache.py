"""EasyCache against its rule written out as a plain loop."""

from __future__ import annotations

import pytest
import torch
from pipelines.tiny_pipelines import BUILDERS, counted, make, run
from torch import nn

import autocache
import tiny

STEPS = 24


class Foreign(nn.Module):
    """A denoiser that no spec describes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(6, 6)
        self.ran = 0

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.ran += 1
        return torch.tanh(self.mix(x) * (1 + t))


class Plain:
    """The method as published: decided on the first call of a step, followed by the others."""

    def __init__(self, model: nn.Module, threshold: float, warmup: int, steps: int) -> None:
        self.model, self.threshold, self.warmup, self.steps = model, threshold, warmup, steps
        self.last_x = self.k = None
        self.computed: tuple | None = None
        self.sum = 0.0
        self.residuals: dict[int, torch.Tensor] = {}
        self.compute = True
        self.trace = ""

    def __call__(self, x: torch.Tensor, t: float, step: int, branch: int) -> torch.Tensor:
        if branch == 0:
            self.compute = self._decide(x, step)
            self.trace += "C" if self.compute else "r"
            self.last_x = x
        if not self.compute:
            return x + self.residuals[branch]
        out = self.model(x, t)
        self.residuals[branch] = out - x
        if branch == 0:
            if self.computed is not None:
                x0, out0 = self.computed
                self.k = ((out - out0).abs().mean() / (x - x0).abs().mean()).item()
            self.computed = (x, out)
        return out

    def _decide(self, x: torch.Tensor, step: int) -> bool:
        if step < self.warmup or step == self.steps - 1 or self.k is None:
            self.sum = 0.0
            return True
        moved = (x - self.last_x).abs().mean() / self.computed[1].abs().mean()
        self.sum += self.k * moved.item()
        if self.sum < self.threshold:
            return False
        self.sum = 0.0
        return True


def generate(call, steps: int = STEPS, branches: int = 2, scale: float = 0.1) -> torch.Tensor:
    """A guided Euler loop; `call` takes latent, time, step and branch."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 6, generator=generator)
    with torch.no_grad():
        for step in range(steps):
            t = 1 - step / steps
            outs = [call(x + 0.2 * b, t, step, b) for b in range(branches)]
            x = x - scale * (outs[0] + 0.5 * (outs[0] - outs[-1]))
    return x


@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.2])
def test_it_skips_and_computes_what_the_plain_loop_does(threshold):
    """Without a spec, on a foreign module: bit for bit the same latents, and the same steps. The
    total is unknown here, so the last step is not protected in either."""
    plain = Plain(Foreign(), threshold, warmup=4, steps=STEPS + 1)
    expected = generate(plain)
    model = Foreign()
    options = {"threshold": threshold, "warmup_steps": 4}
    with autocache.patched(model, "easycache", **options) as patch:
        assert torch.equal(generate(lambda x, t, *_: model(x, t)), expected)
        stats = patch.stats()
    assert {step.branch for step in stats.steps} == {"0", "1"}
    for branch in ("0", "1"):
        letters = [
            "C" if s.action == "computed" else "r" for s in stats.steps if s.branch == branch
        ]
        assert "".join(letters) == plain.trace
    assert {"C", "r"} == set(plain.trace[4:])
    assert model.ran == 2 * plain.trace.count("C")
    assert not torch.equal(expected, generate(lambda x, t, *_: model(x, t)))


def test_each_branch_can_decide_by_itself():
    """With shared_decisions off the second branch measures its own gain."""
    model = Foreign()
    options = {"threshold": 0.05, "warmup_steps": 4, "shared_decisions": False}
    call = lambda x, t, step, b: model(x * (1 + 3 * b), t)  # noqa: E731
    with autocache.patched(model, "easycache", **options) as patch:
        generate(call)
        steps = patch.stats().steps
    traces = ["".join(s.action[0] for s in steps if s.branch == b) for b in "01"]
    assert traces[0] != traces[1]
    assert all({"c", "r"} == set(trace) for trace in traces)


def test_memory_is_an_output_per_branch_and_three_latents():
    """Two latents and an output of the deciding branch, and every branch's residual."""
    model = Foreign()
    one = 2 * 6 * 4
    with autocache.patched(model, "easycache", warmup_steps=2) as patch:
        generate(lambda x, t, *_: model(x, t))
        assert patch.stats().bytes_peak == (2 + 3) * one


def test_a_standing_latent_is_computed():
    """No change of the input tells nothing of the gain; nothing is guessed from it."""
    model = Foreign()
    with autocache.patched(model, "easycache", warmup_steps=1, threshold=10.0) as patch:
        generate(lambda x, t, *_: model(x, t), scale=0.0)
        assert patch.stats().denoiser.share == 1.0


@pytest.mark.parametrize("name", BUILDERS)
def test_pipelines(name):
    """Whole calls are left out in every pipeline, and a second run repeats the first."""
    plain = run(make(name), steps=12, guided=True)
    pipe = make(name)
    with autocache.patched(pipe, "easycache", threshold=0) as patch:
        assert torch.equal(run(pipe, steps=12, guided=True), plain)
        assert patch.stats().bytes_peak == 0
    with autocache.patched(pipe, "easycache", threshold=0.5, dry_run=True) as patch:
        assert torch.equal(run(pipe, steps=12, guided=True), plain)
        errors = [step.error for step in patch.stats().steps if step.action == "reused"]
        assert errors
        assert all(error is not None and error > 0 for error in errors)
    with autocache.patched(pipe, "easycache", threshold=0.5) as patch, counted(pipe) as counts:
        first = run(pipe, steps=12, guided=True)
        assert torch.equal(run(pipe, steps=12, guided=True), first)
        stats = patch.stats()
        assert counts["block"].total() == stats.blocks.run < stats.blocks.total
        assert stats.denoiser.share == stats.blocks.share < 1
        assert all(step.action == "computed" for step in stats.steps if step.step == 11)
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe, steps=12, guided=True), plain)


def limits(name: str, **options):
    model, _ = tiny.build(name, **options.pop("config", {}))
    with autocache.patched(model, "easycache", **options) as patch:
        (part,) = patch._sessions[0].parts
        return part.recipe.when.threshold, part.recipe.limits


HUNYUAN = {"num_layers": 20, "num_single_layers": 40, "in_channels": 16}


def test_published_settings():
    """HunyuanVideo has its own; the exact steps grow and shrink with the step count."""
    threshold, bounds = limits("FluxTransformer2DModel")
    assert (threshold, bounds.warmup, bounds.last, bounds.shared) == (0.05, 10, 1, True)
    assert bounds.warmup_share == 10 / 50
    threshold, bounds = limits("HunyuanVideoTransformer3DModel", config=HUNYUAN)
    assert (threshold, bounds.warmup, bounds.warmup_share) == (0.025, 5, 5 / 50)
    threshold, bounds = limits("FluxTransformer2DModel", threshold=0.1, warmup_steps=10)
    assert (threshold, bounds.warmup, bounds.warmup_share) == (0.1, 10, None)
