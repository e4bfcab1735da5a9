"""`spec="auto"`: a model without a spec gets one in memory, proven, or an error with questions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.authoring import auto
from autocache.errors import SpecError, UnknownModelError
from autocache.spec import layers, registry
from tests.tiny import build

STEPS = 6


class Block(nn.Module):
    """Attention and a feed-forward network on tokens, moved by the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        y = self.norm(h) + emb[:, None]
        h = h + self.attn(y, y, y)[0]
        return h + self.mlp(self.norm(h))


class Dit(nn.Module):
    """A denoiser that follows none of diffusers' names but those of its inputs."""

    def __init__(self, depth: int = 4, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(4, width)
        self.trunk = nn.ModuleList(Block(width) for _ in range(depth))
        self.time = nn.Linear(1, width)
        self.leave = nn.Linear(width, 4)

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        emb = self.time(timestep[:, None].float() / 1000)
        h = self.enter(hidden_states)
        for block in self.trunk:
            h = block(h, emb)
        return self.leave(h)


class Sized(Dit):
    """The same, which nobody can build without knowing its sizes."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(depth, width)


class Strange(nn.Module):
    """A denoiser whose inputs nobody can guess."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, hidden_states: torch.Tensor, timestep: Any, *, setting: Any) -> Any:
        return self.layers[0](hidden_states) + setting["a"].unusual


class Pipeline:
    """What a patched pipeline has to offer: components by name."""

    def __init__(self, **components: Any) -> None:
        self.components = components
        self.__dict__.update(components)


def _run(model: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(3)
    noise = torch.randn(1, 8, 4)
    with torch.no_grad():
        return [model(noise * (1 - s / 20), torch.tensor([900 - 100 * s])) for s in range(STEPS)]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said in the log about drafts."""
    caplog.set_level(logging.WARNING, logger="autocache")
    return lambda: [m for m in caplog.messages if "drafted" in m]


def test_a_model_without_a_spec_is_patched() -> None:
    """Blocks are skipped, steps computed in full are exact, and it comes off without a trace."""
    model = Dit().eval()
    before, random = _run(model), torch.get_rng_state()
    patch = autocache.patch(
        model, "dit_block", spec="auto", step_interval=2, blocks={"trunk": (1, 3)}
    )
    assert torch.equal(torch.get_rng_state(), random)
    outputs, stats = _run(model), patch.stats()
    assert stats.spec_file is None
    assert stats.blocks.run < stats.blocks.total == STEPS * 4
    exact = [torch.equal(a, b) for a, b in zip(before, outputs, strict=True)]
    assert [step.blocks_skipped == 0 for step in stats.steps] == exact
    patch.unpatch()
    assert type(model) is Dit
    assert all(torch.equal(a, b) for a, b in zip(before, _run(model), strict=True))


def test_what_it_rests_on_is_said(said: Callable[[], list[str]]) -> None:
    """Stacks, proofs, what is open, and the command that makes it a file."""
    autocache.patch(Dit(), "dit_block", spec="auto", step_interval=2).unpatch()
    (text,) = said()
    for words in (
        "spec of Dit drafted in memory: trunk (Block: h); attention self",
        "proven on a tiny model: ",
        "ranges, never skips",
        "left open:\n  ",
        f"`autocache specs draft {__name__}:Dit -o Dit.yaml`",
    ):
        assert words in text


def test_a_model_that_cannot_be_built_again_is_not_called_proven(
    said: Callable[[], list[str]],
) -> None:
    """It is drafted from a copy, and the log says that this is all."""
    model = Sized(4, 16)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    autocache.patch(model, "fora", spec="auto").unpatch()
    assert "drafted from a copy of the model, and not proven, since" in said()[0]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_question_that_matters_is_an_error() -> None:
    """Every question of the draft is in it, and what to do."""
    with pytest.raises(UnknownModelError) as caught:
        autocache.patch(Strange(), "dit_block", spec="auto")
    text = str(caught.value)
    assert f"no spec describes {__name__}:Strange, and none can be drafted that is certain" in text
    assert "no forward could be run" in text
    assert f"`autocache specs draft {__name__}:Strange -o Strange.yaml`" in text


def test_a_draft_that_does_not_prove_right_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drafted is used only where the tiny model agrees with it."""
    real = auto.drafted

    def spoiled(target: Any) -> Any:
        draft = real(target)
        text = draft.text.replace("feed_forward: [mlp]", "feed_forward: [attn.out_proj]")
        assert text != draft.text
        return type(draft)(text, draft.questions)

    monkeypatch.setattr(auto, "drafted", spoiled)
    model = Dit()
    with pytest.raises(SpecError, match=r"(?s)does not prove right:.*feed-forward"):
        autocache.patch(model, "fora", spec="auto")
    assert not autocache.is_patched(model)


def test_a_known_model_keeps_its_spec(said: Callable[[], list[str]]) -> None:
    """Nothing is drafted where somebody has written and proven one."""
    model, _ = build("DiTTransformer2DModel")
    with autocache.patch(model, "dit_block", spec="auto") as patch:
        assert patch.spec is registry.find(model)
    assert said() == []


@pytest.mark.parametrize(
    "name", ["DiTTransformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel"]
)
def test_a_draft_of_a_described_class_has_its_stacks(
    tmp_path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]], name: str
) -> None:
    """With the bundled specs out of sight, what is drafted agrees with what was written; once."""
    model, _ = build(name)
    written = registry.resolve(None, model)
    monkeypatch.setattr(layers, "directory", lambda: tmp_path)
    monkeypatch.setattr(auto, "_known", {})
    assert registry.find(model) is None
    for _ in range(2):
        with autocache.patch(model, "taylorseer", spec="auto") as patch:
            drafted = patch.spec.stacks
    assert [(s.path, s.streams, s.return_items, s.each) for s in drafted] == [
        (s.path, s.streams, s.return_items, s.each) for s in written.stacks
    ]
    assert len(said()) == 1


def test_the_denoisers_of_a_pipeline_are_drafted() -> None:
    """Components with a denoiser's name, and no others."""
    pipe = Pipeline(transformer=Dit(), vae=nn.Linear(2, 2))
    with autocache.patch(pipe, "dit_block", spec="auto") as patch:
        assert patch.denoisers == [pipe.components["transformer"]]


def test_the_error_without_a_spec_offers_a_draft() -> None:
    """Both ways out: a file, and in memory."""
    with pytest.raises(UnknownModelError) as caught:
        autocache.patch(Dit(), "dit_block")
    assert f"`autocache specs draft {__name__}:Dit -o Dit.yaml`" in str(caught.value)
    assert "spec='auto'" in str(caught.value)
