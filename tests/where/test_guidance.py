"""The unconditional branch as a place: which arguments are halved, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

import autocache
from autocache.how import Extrapolate, Reuse
from autocache.spec.schema import Guidance as GuidanceFact
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Guidance


class Denoiser(nn.Module):
    """Notes what it is called with; the output's second half is its first plus 1."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: float,
        text: torch.Tensor,
        image_rotary_emb: Any = None,
        img_ids: Any = None,
        extras: Any = None,
        form: str = "tuple",
    ) -> Any:
        self.calls.append({**locals()})
        out = hidden_states + text.view(-1, 1, 1)
        if form == "bare":
            return out
        return (out,) if form == "tuple" else Transformer2DModelOutput(sample=out)


SPEC = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{__name__}:Denoiser",
        "latent_layout": "tokens",
        "stacks": [
            {"path": "blocks", "block": "Identity", "streams": ["input"], "returns": "input"}
        ],
    }
)
TEXT = torch.tensor([1.0, 1.0, 0.0, 0.0])


def guided(where: Guidance, **options: Any) -> tuple[Denoiser, autocache.Patch]:
    model = Denoiser()
    options = {"when": Interval(3, start=0), "how": Reuse(), **options}
    return model, autocache.patch(model, where=where, spec=SPEC, **options)


def latent(step: int) -> torch.Tensor:
    half = torch.full((2, 3, 5), float(step))
    return torch.cat([half, half])


@pytest.mark.parametrize("form", ["tuple", "bare", "output"])
def test_structure_and_order(form):
    """What comes back is of the model's own structure, the halves where they were."""
    cases = (Guidance("batched"), TEXT), (Guidance("batched_conditional_first"), 1 - TEXT)
    for where, text in cases:
        model, patch = guided(where)
        for step in range(6):
            out = model(latent(step), 900.0 - step, text, form=form)
            assert isinstance(
                out,
                {"tuple": tuple, "bare": torch.Tensor, "output": Transformer2DModelOutput}[form],
            )
            value = {"tuple": lambda o: o[0], "bare": lambda o: o, "output": lambda o: o.sample}
            assert torch.equal(value[form](out), latent(step) + text.view(-1, 1, 1))
        assert [len(call["hidden_states"]) for call in model.calls] == [4, 2, 2] * 2
        assert all(set(call["text"].tolist()) == {0.0} for call in model.calls[1:3])
        assert [s.action for s in patch.stats().steps] == ["computed", "reused", "reused"] * 2


def test_arguments():
    """Everything as long as the batch is halved, however deep it lies, but for positions."""
    model, _ = guided(Guidance("batched"))
    rotary = (torch.randn(4, 8), torch.randn(4, 8))
    ids = torch.randn(4, 3)
    extras = {
        "text_embeds": torch.arange(4.0),
        "time_ids": torch.arange(8.0).view(4, 2),
        "deep": [{"masks": (torch.arange(4.0), torch.arange(5.0))}],
        "scale": 0.5,
        "none": None,
        "one": torch.tensor(1.0),
    }
    for step in range(2):
        model(latent(step), 900.0 - step, TEXT, image_rotary_emb=rotary, img_ids=ids, extras=extras)
    got = model.calls[1]
    assert got["image_rotary_emb"][0] is rotary[0]
    assert got["img_ids"] is ids
    inside = got["extras"]
    assert inside["text_embeds"].tolist() == [2, 3]
    assert inside["time_ids"].tolist() == [[4, 5], [6, 7]]
    assert [len(x) for x in inside["deep"][0]["masks"]] == [2, 5]
    assert (inside["scale"], inside["none"], inside["one"].item()) == (0.5, None, 1.0)
    assert len(extras["text_embeds"]) == 4


def test_a_batch_on_another_axis():
    """The spec says of an argument that its batch is not on the first axis."""
    model = Denoiser()
    spec = SPEC.model_copy(update={"batch_axes": {"extras": 1}})
    parts = {"when": Interval(3, start=0), "where": Guidance("batched"), "how": Reuse()}
    autocache.patch(model, **parts, spec=spec)
    layers = torch.arange(16).view(4, 4)
    for step in range(2):
        model(latent(step), 900.0 - step, TEXT, extras=layers)
    assert torch.equal(model.calls[1]["extras"], layers[:, 2:])


class Pipeline:
    """What autocache takes for a pipeline: something with a denoiser in it."""

    def __init__(self, model: nn.Module) -> None:
        self.components = {"transformer": model}


def test_a_batch_that_is_not_guided_is_computed():
    """A pipeline may or may not guide: only two equal halves are two branches."""
    model = Denoiser()
    fact = GuidanceFact.model_validate({"style": "batched"})
    spec = SPEC.model_copy(update={"guidance": {"Pipeline": fact}})
    pipe = Pipeline(model)
    parts = {"when": Interval(3, start=0), "where": Guidance(), "how": Reuse()}
    patch = autocache.patch(pipe, **parts, spec=spec)
    for step in range(3):
        model(torch.randn(4, 3, 5), 900.0 - step, TEXT)
    for step in range(3):
        model(torch.randn(3, 3, 5), 700.0 - step, TEXT[:3])
    assert [len(call["hidden_states"]) for call in model.calls] == [4] * 3 + [3] * 3
    patch.reset()
    model.calls.clear()
    for step in range(3):
        model(latent(step), 900.0 - step, TEXT)
    assert [len(call["hidden_states"]) for call in model.calls] == [4, 2, 2]


def test_an_unknown_loop_is_not_guided():
    model, patch = guided(Guidance())
    for step in range(4):
        for _ in range(2):
            model(latent(step), 900.0 - step, TEXT)
    assert len(model.calls) == 8
    assert patch.stats().bytes_peak == 0


def calls(model: Denoiser, step: int, order: str) -> dict[str, torch.Tensor]:
    """One call for each letter: conditional, unconditional, or a third one."""
    given = {"c": 0.0, "u": 2.0, "x": 5.0}
    return {
        letter: model(latent(step)[:2], 900.0 - step, torch.full((2,), given[letter]))[0]
        for letter in order
    }


def test_a_third_branch_is_left_alone():
    model, patch = guided(Guidance("sequential"))
    for step in range(6):
        out = calls(model, step, "cux")
        assert [float(out[k][0, 0, 0]) - step for k in "cux"] == [0.0, 2.0, 5.0]
    whole = [(s.step, s.branch) for s in patch.stats().steps if s.whole]
    assert whole == [(n, "1") for n in (1, 2, 4, 5)]


def test_guidance_that_stops_and_comes_back():
    """The unconditional branch goes on from the last difference there is."""
    model, patch = guided(Guidance("sequential"), how=Extrapolate(0))
    for step, order in enumerate(["cu", "cu", "c", "c", "c", "cu", "cu", "cu"]):
        out = calls(model, step, order)
        assert "u" not in out or float(out["u"][0, 0, 0]) == step + 2.0
    assert [s.step for s in patch.stats().steps if s.whole] == [1, 5, 7]


class Named(Denoiser):
    """With diffusers' way to name a branch."""

    def cache_context(self, name: str) -> Any:
        import contextlib

        return contextlib.nullcontext()


def test_an_unconditional_call_that_comes_first_is_computed():
    """There is nothing yet to predict it from."""
    model = Named()
    spec = SPEC.model_copy(update={"model": f"{__name__}:Named"})
    parts = {"when": Interval(3, start=0), "where": Guidance(), "how": Reuse()}
    patch = autocache.patch(model, **parts, spec=spec)
    for step in range(6):
        for name in ("uncond", "cond"):
            with model.cache_context(name):
                model(latent(step), 900.0 - step, TEXT)
    assert len(model.calls) == 12
    assert {s.branch for s in patch.stats().steps} == {"cond", "uncond"}
    assert not any(s.whole for s in patch.stats().steps)


@pytest.mark.parametrize("prefix", ["", "pred_"])
def test_named_branches_need_no_pipeline(prefix: str) -> None:
    """Pipelines name the branches one way, their guiders another: both tell which call is which."""
    model = Named()
    spec = SPEC.model_copy(update={"model": f"{__name__}:Named"})
    parts = {"when": Interval(3, start=0), "where": Guidance(), "how": Reuse()}
    patch = autocache.patch(model, **parts, spec=spec)
    for step in range(4):
        for name in ("cond", "uncond"):
            with model.cache_context(prefix + name):
                model(latent(step), 900.0 - step, TEXT)
    skipped = [(s.step, s.branch) for s in patch.stats().steps if s.whole]
    assert skipped == [(1, f"{prefix}uncond"), (2, f"{prefix}uncond")]


def test_a_conditional_output_written_into_is_not_used():
    """The pipeline may reuse the tensor it was given before the unconditional call."""
    model, patch = guided(Guidance("sequential"))
    for step in range(3):
        calls(model, step, "c")["c"].mul_(100)
        assert float(calls(model, step, "u")["u"][0, 0, 0]) == step + 2.0
    # Noticed once, it is copied from then on.
    assert [s.whole for s in patch.stats().steps if s.branch == "1"] == [False, False, True]
