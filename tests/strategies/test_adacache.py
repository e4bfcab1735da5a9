"""AdaCache against the same model recomposed by hand, block by block, as upstream does it."""

from __future__ import annotations

import copy
import inspect
import itertools
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make
from pipelines.tiny_pipelines import run as generate
from torch import nn

import autocache
from autocache.errors import ParameterError
from gated import watch
from tiny import build
from trajectory import path, run

STEPS = 30
CODEBOOK = {0.03: 6, 0.05: 5, 0.08: 4, 0.12: 3, 0.20: 2, 1.00: 1}
"""For the changes of the tiny models. As published: the sixth entry is for all else."""
OURS = (*list(CODEBOOK.items())[:5], (float("inf"), 1))
STACK = {"WanTransformer3DModel": "blocks", "DiTTransformer2DModel": "transformer_blocks"}


class ByHand:
    """A plain model in which each block keeps its attention residual and the sum of the others."""

    def __init__(self, name: str, model: nn.Module, total: int) -> None:
        self.model, self.total = model, total
        blocks = model.get_submodule(STACK[name])
        self.attention: dict[nn.Module, torch.Tensor] = {}
        self.others: dict[nn.Module, torch.Tensor] = {}
        self.full, self.step, self.last = True, 0, 0
        self.rate = self.next_rate = 1
        self.decisive = blocks[len(blocks) // 2]
        for block in blocks:
            self._watch(name, block)

    def _watch(self, name: str, block: nn.Module) -> None:
        arguments, gated = inspect.signature(block.forward), watch(name, block)

        def leaves(module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> Any:
            entered = arguments.bind(*args, **kwargs).arguments["hidden_states"]
            if not self.full:
                return (entered + self.attention[block]) + self.others[block]
            added = gated()
            if block is self.decisive and block in self.attention:
                before = self.attention[block]
                change = (before - added).abs().sum() / before.abs().sum() / self.rate
                thresholds = list(CODEBOOK)[:5]
                found = [CODEBOOK[threshold] for threshold in thresholds if change < threshold]
                self.next_rate = found[0] if found else 1
            self.attention[block] = added
            self.others[block] = output - entered - added
            return None

        block.register_forward_hook(leaves, with_kwargs=True)

    def __call__(self, **given: Any) -> torch.Tensor:
        self.step += 1
        n, end = self.step, (1, self.total - 1, self.total)
        self.full = n in end or n == self.last + self.rate
        with torch.no_grad():
            output = self.model(**given)[0]
        if self.full:
            self.last = n
        self.rate = self.next_rate
        return output


class Announced:
    """Stands in for a scheduler, so that the number of steps is known."""

    def __init__(self, total: int) -> None:
        self.timesteps = list(range(total))


@pytest.mark.parametrize("name", STACK)
def test_it_equals_reuse_block_by_block(name):
    """Same steps computed and same predictions: one residual over all blocks is the sum of theirs,
    so they differ by float32 rounding, over at most eight additions of numbers near one."""
    model, inputs = build(name)
    by_hand = ByHand(name, copy.deepcopy(model), STEPS)
    plain = run(model, inputs, STEPS)
    with autocache.patched(model, "adacache", codebook=OURS) as patch:
        # Nobody announces this loop's steps, so the two last ones come as any other.
        for session in patch._sessions:
            session.track.clock.announce(STEPS)
        computed = []
        for step, (latent, time) in enumerate(path(name, STEPS)):
            given = inputs(time) | {"hidden_states": latent}
            expected = by_hand(**copy.deepcopy(given))
            with torch.no_grad():
                output = model(**given)[0]
            for session in patch._sessions:
                session.step_ended(None)
            computed.append(patch.stats().steps[-1].action == "computed")
            assert computed[-1] is by_hand.full, step
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(output, plain[step]) is by_hand.full
    assert computed[:2] == computed[-2:] == [True, True]
    assert 4 < sum(computed) < 0.8 * STEPS
    # Several rates came up.
    gaps = [n for n, is_computed in enumerate(computed) if is_computed]
    assert len({b - a for a, b in itertools.pairwise(gaps)}) > 2


@pytest.mark.parametrize("guided", [False, True])
def test_a_pipeline(guided):
    """First, second and the two last steps are computed, in each branch; a second generation
    repeats the first, and unpatching leaves the plain pipeline."""
    pipe = make("cogvideox")
    plain = generate(pipe, steps=12, guided=guided)
    with autocache.patched(pipe, "adacache", codebook="100") as patch:
        first = generate(pipe, steps=12, guided=guided)
        assert torch.equal(first, generate(pipe, steps=12, guided=guided))
        actions = [step.action == "computed" for step in patch.stats().steps]
    assert actions[:12] == actions[12:]
    assert actions[:2] == actions[10:12] == [True, True]
    assert not all(actions)
    assert not torch.equal(first, plain)
    assert torch.equal(plain, generate(pipe, steps=12, guided=guided))


def test_guidance_branches_do_not_mix():
    """Two branches that take turns are each predicted as if they were alone."""
    model, inputs = build("WanTransformer3DModel")
    given = [inputs(900 - 25 * step) for step in range(16)]
    other = [call | {"encoder_hidden_states": -call["encoder_hidden_states"]} for call in given]

    def alone(calls):
        with autocache.patched(model, "adacache", codebook=OURS), torch.no_grad():
            return [model(**call)[0] for call in calls]

    conditional, unconditional = alone(given), alone(other)
    with autocache.patched(model, "adacache", codebook=OURS) as patch, torch.no_grad():
        for step in range(16):
            with model.cache_context("cond"):
                assert torch.equal(model(**given[step])[0], conditional[step])
            with model.cache_context("uncond"):
                assert torch.equal(model(**other[step])[0], unconditional[step])
        assert not all(step.action == "computed" for step in patch.stats().steps)


def test_memory():
    """Per guidance branch the residual of the stack and one attention residual: 2 s."""
    model, inputs = build("WanTransformer3DModel")
    s = 2 * 4 * 4 * 24 * 4  # frames, height, width, channels, bytes
    with autocache.patched(model, "adacache", codebook="100") as patch:
        run(model, inputs, 12)
        assert patch.stats().bytes_peak == 2 * s
    with autocache.patched(model, "adacache", codebook="100") as patch, torch.no_grad():
        for step in range(6):
            for branch in ("cond", "uncond"):
                with model.cache_context(branch):
                    model(**inputs(900 - 50 * step))
        assert patch.stats().bytes_peak == 4 * s


def test_rates_of_one_are_the_plain_model():
    """Nothing is measured or kept where the codebook never skips."""
    model, inputs = build("DiTTransformer2DModel")
    plain = run(model, inputs, 6)
    with autocache.patched(model, "adacache", codebook=[(0.5, 1), (float("inf"), 1)]) as patch:
        outputs = run(model, inputs, 6)
        assert patch.stats().bytes_peak == 0
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))


def test_a_dry_run_decides_as_a_real_run():
    """It computes everything, and tells the error of what would have been skipped."""
    model, inputs = build("WanTransformer3DModel")
    plain = run(model, inputs, 20)
    with autocache.patched(model, "adacache", codebook=OURS) as patch:
        run(model, inputs, 20)
        real = [step.action for step in patch.stats().steps]
    with autocache.patched(model, "adacache", codebook=OURS, dry_run=True) as patch:
        outputs = run(model, inputs, 20)
        steps = patch.stats().steps
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))
    assert [step.action for step in steps] == real
    assert [bool(step.error) for step in steps] == [action != "computed" for action in real]


def test_motion_reads_the_frames_off_the_latent():
    """Wan's and CogVideoX's frames are on different axes; both are what `frames` says as well."""
    motion = {"codebook": "100", "moreg": True, "moreg_steps": (2, 9)}
    for name, frames in (("WanTransformer3DModel", 2), ("CogVideoXTransformer3DModel", 1)):
        model, inputs = build(name)
        found = []
        for options in ({}, {"frames": frames}):
            with autocache.patched(model, "adacache", **motion, **options) as patch:
                run(model, inputs, 12)
                found.append([(step.action, step.distance) for step in patch.stats().steps])
        assert found[0] == found[1]
    model, inputs = build("WanTransformer3DModel")
    with autocache.patched(model, "adacache", codebook="100") as patch:
        run(model, inputs, 12)
        without = [step.distance for step in patch.stats().steps]
    with autocache.patched(model, "adacache", **motion) as patch:
        run(model, inputs, 12)
        assert without != [step.distance for step in patch.stats().steps]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"codebook": [(0.2, 2), (0.1, 3)]}, "rise"),
        ({"codebook": []}, "rise"),
        ({"codebook": [(0.2, 0)]}, "greater than or equal to 1"),
        ({"codebook": "quick"}, "codebook"),
        ({"moreg": True}, "FluxTransformer2DModel .* frames="),
        ({"probe_stack": "single_transformer_blocks"}, "after_attention"),
    ],
)
def test_wrong_parameters(parameters, message):
    """Each is named, with what is expected."""
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(ParameterError, match=message):
        autocache.patch(model, "adacache", **parameters)
