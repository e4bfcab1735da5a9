"""What holds for every generation: branches apart, repeated alike, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipelines import tiny_pipelines

import autocache
import tiny

CASES = [
    ("taylorseer", {"interval": 3}),
    ("taylorseer", {"interval": 3, "scope": "stack", "order": 2}),
    ("taylorseer", {"interval": 3, "scope": "output", "basis": "newton", "phase": "diffusers"}),
    ("fora", {"countdown": True}),
    ("pab", {"spatial_window": (50, 950), "cross_range": 3}),
    ("customcache", {"order": 2, "coefficients": (1.0, 0.0)}),
]
IDS = ["-".join(map(str, (name, *options.values()))) for name, options in CASES]
STEPS = 10


def state(pipe: Any) -> Any:
    """All that a patch could leave on the denoisers."""
    return [
        (type(module), list(module.__dict__), len(module._forward_hooks))
        for model in tiny_pipelines.denoisers(pipe)
        for module in model.modules()
    ]


@pytest.mark.parametrize(("strategy", "options"), CASES, ids=IDS)
def test_generations_repeat_and_leave_nothing(strategy, options):
    """The second generation is the first again; after it nothing is held, after unpatching the
    model is the plain one. A dry run is the plain run and tells an error per skipped step."""
    pipe = tiny_pipelines.make("wan")
    plain, before = tiny_pipelines.run(pipe, steps=STEPS), state(pipe)
    patch = autocache.patch(pipe, strategy, **options)
    first, second = (tiny_pipelines.run(pipe, steps=STEPS) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)
    stats = patch.stats()
    skipped = [step.action != "computed" for step in stats.steps]
    assert skipped.count(True) > 2
    assert stats.bytes_held == 0 < stats.bytes_peak
    assert stats.generations == 2
    autocache.unpatch(pipe)
    assert state(pipe) == before
    assert torch.equal(tiny_pipelines.run(pipe, steps=STEPS), plain)

    with autocache.patched(pipe, strategy, dry_run=True, **options) as patch:
        assert torch.equal(tiny_pipelines.run(pipe, steps=STEPS), plain)
        steps = patch.stats().steps
    assert all((step.error is not None) == (step.action != "computed") for step in steps)
    assert sum(step.action != "computed" for step in steps) > 2
    assert all(step.error > 0 for step in steps if step.error is not None)


@torch.no_grad()
def outputs(model: Any, inputs: Any, branches: tuple[float, ...]) -> list[list[torch.Tensor]]:
    """The predictions of each guidance branch, the branches called in turn."""
    made: list[list[torch.Tensor]] = [[] for _ in branches]
    for step in range(STEPS):
        for own, unlike in zip(made, branches, strict=True):
            given = inputs(930.0 - 90 * step)
            given["hidden_states"] = given["hidden_states"] * (1 + 0.1 * step)
            given["encoder_hidden_states"] = given["encoder_hidden_states"] * unlike
            own.append(model(**given)[0].clone())
    return made


@pytest.mark.parametrize(("strategy", "options"), CASES, ids=IDS)
def test_each_branch_is_as_if_alone(strategy, options):
    """Two branches in turn predict, bit for bit, what each predicts on a model of its own."""

    def patched(*branches: float) -> list[list[torch.Tensor]]:
        model, inputs = tiny.build("WanTransformer3DModel")
        with autocache.patched(model, strategy, **options) as patch:
            made = outputs(model, inputs, branches)
            assert any(step.action != "computed" for step in patch.stats().steps)
        return made

    together = patched(1.0, -2.0)
    for branch, made in zip((1.0, -2.0), together, strict=True):
        (alone,) = patched(branch)
        assert all(map(torch.equal, made, alone))


@pytest.mark.parametrize(("strategy", "options"), CASES, ids=IDS)
def test_sequential_guidance_in_a_pipeline(strategy, options):
    """Both branches of every step do the same, in each of the two experts."""
    pipe = tiny_pipelines.make("wan")
    with autocache.patched(pipe, strategy, **options) as patch:
        tiny_pipelines.run(pipe, steps=STEPS, guided=True)
        steps = patch.stats().steps
    taken: dict[str, dict[int, str]] = {}
    for step in steps:
        taken.setdefault(step.branch, {})[step.step] = step.action
    first, second = taken.values()
    assert sorted(first) == list(range(STEPS))
    if strategy != "customcache":  # It decides by what each branch measures.
        assert first == second
    assert len(set(first.values())) > 1
