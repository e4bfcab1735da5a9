"""A part of a text is the same input in every step, although each slice is a new tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import autocache
from autocache.spec.schema import Spec

View = Callable[[torch.Tensor], torch.Tensor]


class Embedder(nn.Module):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        self.ran += 1
        return text * 2


class Denoiser(nn.Module):
    """Embeds a part of the text, which `view` takes anew in every call."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view
        self.embedder = Embedder()
        self.eval()

    def forward(
        self, hidden_states: torch.Tensor, timestep: float, text: torch.Tensor
    ) -> torch.Tensor:
        return hidden_states * timestep + self.embedder(self.view(text)).sum()


SPEC = Spec.model_validate(
    {
        "schema": 1,
        "model": f"{Denoiser.__module__}:Denoiser",
        "no_blocks": "there is nothing to skip",
        "invariant": ["embedder"],
    }
)


def _runs(model: Denoiser, texts: list[torch.Tensor]) -> int:
    """How often the embedder runs in one generation; what comes out is always right."""
    model.embedder.ran = 0
    with autocache.patched(model, "invariant", spec=SPEC), torch.no_grad():
        for step, text in enumerate(texts):
            latent, time = torch.ones(3), 0.9 - 0.1 * step
            expected = latent * time + (model.view(text) * 2).sum()
            assert torch.equal(model(latent, time, text), expected)
    return model.embedder.ran


@pytest.mark.parametrize(
    "view",
    [
        lambda text: text[:, 0],
        lambda text: text[:, None, 1:],
        lambda text: text.transpose(0, 1),
        lambda text: text[1:][:, 0],
        lambda text: text.expand(2, *text.shape),
    ],
)
def test_the_same_view_of_a_tensor_is_the_same_input(view: View) -> None:
    """Slices, transposed and expanded tensors, and views of views."""
    text = torch.randn(2, 3, 4)
    assert _runs(Denoiser(view), [text] * 4) == 1


def test_what_is_no_view_is_new_each_time() -> None:
    """A copy may hold anything."""
    text = torch.randn(2, 3, 4)
    assert _runs(Denoiser(lambda text: text[:, 0].clone()), [text] * 4) == 4


def test_another_part_of_the_same_tensor_is_another_input() -> None:
    """By its place, its shape, its order, or how its numbers are read."""
    text = torch.randn(3, 3, dtype=torch.complex64)
    ways: list[View] = [
        lambda text: text[0],
        lambda text: text[1],
        lambda text: text[:, 0],
        lambda text: text[0, :2],
        lambda text: text[0].conj(),
        lambda text: text[0].real,
        lambda text: text[0].conj().imag,
    ]
    model = Denoiser(lambda text: text)
    with autocache.patched(model, "invariant", spec=SPEC), torch.no_grad():
        for step, way in enumerate(ways):
            model.view = way
            out = model(torch.zeros(1, dtype=torch.complex64), 1.0 - 0.1 * step, text)
            assert torch.equal(out[0], (way(text) * 2).sum().to(torch.complex64))
    assert model.embedder.ran == len(ways)


def test_writing_into_the_tensor_changes_its_views() -> None:
    """Also through another view of it."""
    text = torch.randn(2, 3, 4)
    model = Denoiser(lambda text: text[:, 0])
    with autocache.patched(model, "invariant", spec=SPEC), torch.no_grad():
        for step in range(4):
            if step == 2:
                text[1:].add_(1)
            out = model(torch.zeros(1), 0.9 - 0.1 * step, text)
            assert torch.equal(out[0], (text[:, 0] * 2).sum())
    assert model.embedder.ran == 2


def test_another_tensor_of_the_same_shape_is_another_input() -> None:
    """Two prompts in turns."""
    texts = [torch.randn(2, 3, 4) for _ in range(2)]
    assert _runs(Denoiser(lambda text: text[:, 0]), [texts[0], texts[1]] * 2) == 4
