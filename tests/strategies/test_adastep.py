"""AdaStep against upstream's way to do it: forward and scheduler.step replaced on a pipeline."""

from __future__ import annotations

import diffusers
import pytest
import torch
from pipelines.tiny_pipelines import BUILDERS, counted, dit, make, run
from torch import nn

import autocache
import tiny


class Upstream:
    """The published rule, with one output for each call of a step."""

    def __init__(self, pipe, threshold: float, decay: float, in_a_row: int, steps: int) -> None:
        self.threshold, self.decay, self.in_a_row, self.steps = threshold, decay, in_a_row, steps
        self.previous, self.speeds, self.mask = None, [], [False]
        self.outputs: dict[int, object] = {}
        self.calls = 0
        self.trace = ""
        forward, step = pipe.transformer.forward, pipe.scheduler.step

        def denoise(*args, **kwargs):
            if not self.mask[-1]:
                self.outputs[self.calls] = forward(*args, **kwargs)
            self.calls += 1
            return self.outputs[self.calls - 1]

        def advance(*args, **kwargs):
            self.trace += "r" if self.mask[-1] else "C"
            result = step(*args, **kwargs)
            self.calls = 0
            self.after(result[0] if isinstance(result, tuple) else result.prev_sample)
            return result

        pipe.transformer.forward, pipe.scheduler.step = denoise, advance

    def after(self, x: torch.Tensor) -> None:
        moved = x if self.previous is None else x - self.previous
        self.speeds.append(moved.abs().mean().item())
        self.previous = x
        skip = False
        if len(self.speeds) >= 3:
            self.threshold *= self.decay
            last = self.mask[-self.in_a_row :]
            if not (len(last) == self.in_a_row and all(last)):
                d = self.speeds
                skip = abs((d[-1] + d[-3]) / 2 - d[-2]) <= self.threshold * d[-2]
        # autocache's one addition: the last step is exact.
        self.mask.append(skip and len(self.speeds) < self.steps - 1)


def multistep():
    pipe = dit()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


PIPES = {
    "euler": lambda: make("flux"),
    "euler-batched": lambda: make("hunyuan"),
    "ddim": lambda: make("dit"),
    "cogvideox": lambda: make("cogvideox"),
    "dpm++": multistep,
}


@pytest.mark.parametrize(("threshold", "in_a_row"), [(0.05, 4), (0.2, 2), (0.2, 1)])
@pytest.mark.parametrize("name", PIPES)
def test_it_does_what_upstream_does(name, threshold, in_a_row):
    """Bit for bit the same latents and the same skipped steps, under Euler, DDIM and DPM++."""
    reference = PIPES[name]()
    upstream = Upstream(reference, threshold, 0.9, in_a_row, 16)
    expected = run(reference, steps=16, guided=True)
    pipe = PIPES[name]()
    options = {"threshold": threshold, "decay": 0.9, "max_consecutive_skips": in_a_row}
    with autocache.patched(pipe, "adastep", **options) as patch, counted(pipe) as counts:
        assert torch.equal(run(pipe, steps=16, guided=True), expected)
        stats = patch.stats()
        assert counts["block"].total() == stats.blocks.run
    for branch in {step.branch for step in stats.steps}:
        done = ["C" if s.action == "computed" else "r" for s in stats.steps if s.branch == branch]
        assert "".join(done) == upstream.trace
    assert set(upstream.trace[3:]) == {"C", "r"}
    assert "r" * (in_a_row + 1) not in upstream.trace


def test_the_limit_starts_anew_in_every_generation():
    """Upstream's decayed limit leaks into the next prompt; here equal calls give equal results,
    while the reference, used twice, skips less the second time."""
    pipe = make("dit")
    with autocache.patched(pipe, "adastep", threshold=0.2, decay=0.9) as patch:
        first = run(pipe, steps=16)
        assert torch.equal(run(pipe, steps=16), first)
        steps = patch.stats().steps
    once, twice = ([s.action for s in steps if s.generation == g] for g in (0, 1))
    assert once == twice
    leaking = make("dit")
    upstream = Upstream(leaking, 0.2, 0.9, 4, 16)
    run(leaking, steps=16)
    upstream.previous, upstream.speeds, upstream.mask = None, [], [False]
    run(leaking, steps=16)
    traces = upstream.trace[:16], upstream.trace[16:]
    assert [action[0].replace("c", "C") for action in once] == list(traces[0])
    assert traces[0].count("r") > traces[1].count("r")


@pytest.mark.parametrize("name", BUILDERS)
def test_pipelines(name):
    """Never skipping and dry runs give the plain result; memory is the outputs and a latent."""
    plain = run(make(name), steps=10, guided=True)
    pipe = make(name)
    with autocache.patched(pipe, "adastep", threshold=0):
        assert torch.equal(run(pipe, steps=10, guided=True), plain)
    with autocache.patched(pipe, "adastep", threshold=1.0, dry_run=True) as patch:
        assert torch.equal(run(pipe, steps=10, guided=True), plain)
        assert any(step.error for step in patch.stats().steps if step.action == "reused")
    with autocache.patched(pipe, "adastep", threshold=1.0) as patch:
        skipped = run(pipe, steps=10, guided=True)
        assert patch.stats().denoiser.share < 1
        assert patch.stats().bytes_held == 0
    assert not torch.equal(skipped, plain)
    assert torch.equal(run(pipe, steps=10, guided=True), plain)


def test_memory():
    """Flux with two branches: an output for each and one latent, of equal size."""
    pipe = make("flux")
    with autocache.patched(pipe, "adastep") as patch:
        run(pipe, steps=10, guided=True)
        assert patch.stats().bytes_peak == 3 * (16 * 4 * 4)


class Straight(nn.Module):
    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.full_like(x, 1.0)


def test_without_a_scheduler_the_denoisers_input_is_looked_at():
    """A loop of one's own that moves evenly: four steps in a row are skipped, then one computed."""
    model, x = Straight(), torch.full((1, 4), 50.0)
    with autocache.patched(model, "adastep") as patch, torch.no_grad():
        for step in range(14):
            x = x - model(x, 1 - step / 14)
        drawn = "".join(step.action[0] for step in patch.stats().steps)
    # 49, 1, 1: bent by the first difference, taken from zero.
    assert drawn == "ccccrrrrcrrrrc"


def test_published_settings():
    """CogVideoX has its own thresholds, and never skips two steps in a row."""
    for config, threshold in (
        ({"num_layers": 30}, 0.009),
        ({"num_layers": 42, "use_rotary_positional_embeddings": True}, 0.006),
    ):
        model, _ = tiny.build("CogVideoXTransformer3DModel", **config)
        with autocache.patched(model, "adastep") as patch:
            (part,) = patch._sessions[0].parts
        assert (part.recipe.when.threshold, part.recipe.when.decay) == (threshold, 0.99)
        assert part.recipe.limits.max_consecutive_skips == 1
