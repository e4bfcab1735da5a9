"""What is said when an installed package is not the one a spec was proven on."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autocache
from autocache.errors import SpecError
from autocache.spec import drift
from autocache.spec.loader import load
from autocache.spec.schema import Spec

TEXT = """\
schema: 1
model: {module}:Toy
timestep: t
stacks: [{{path: blocks, block: Block, streams: [x, text], returns: [x, text]}}]
probes: {{temb: {{argument: temb}}}}
proof:
  package: torch {version}
  signatures: {{Block: [x, text, temb, mask]}}
"""
NOW = importlib.metadata.version("torch")


class Block(nn.Module):
    """A block as the spec was proven on."""

    def forward(self, x: Any, text: Any, temb: Any, mask: Any = None) -> Any:
        return x + temb, text


class Added(Block):
    """The next version takes one argument more."""

    def forward(self, x: Any, text: Any, temb: Any, mask: Any = None, rope: Any = None) -> Any:
        return x + temb, text


class Renamed(Block):
    """An argument that the spec does not use is called otherwise, and one is gone."""

    def forward(self, x: Any, text: Any, temb: Any, attention_mask: Any = None) -> Any:
        return x + temb, text


class Moved(Block):
    """The arguments come in another order."""

    def forward(self, text: Any, x: Any, temb: Any, mask: Any = None) -> Any:
        return x + temb, text


class Broken(Block):
    """An argument that the spec does use is called otherwise."""

    def forward(self, x: Any, context: Any, temb: Any) -> Any:
        return x + temb, context


class Toy(nn.Module):
    """A denoiser of two blocks."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> Any:
        text = x
        for block in self.blocks:
            x, text = block(x=x, text=text, temb=t)
        return x


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], Spec]:
    """The spec, proven on that version of torch."""

    def read(version: str = "0.1") -> Spec:
        file = tmp_path / "Toy.yaml"
        file.write_text(TEXT.format(module=__name__, version=version))
        return load(file)

    drift._warn.cache_clear()
    return read


def _said(caplog: pytest.LogCaptureFixture, spec: Spec, block: type[nn.Module]) -> list[str]:
    with (
        caplog.at_level(logging.WARNING, logger="autocache"),
        autocache.patch(Toy(block), "easycache", spec=spec),
    ):
        return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Added, "Added.forward also takes 'rope'"),
        (Renamed, "Renamed.forward calls 'mask' now 'attention_mask'"),
        (Moved, "Moved.forward takes its arguments in another order (text, x, temb, mask)"),
    ],
)
def test_a_change_that_breaks_nothing_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
    spec: Callable[[str], Spec],
    block: type[nn.Module],
    expected: str,
) -> None:
    """What changed, since which version, and that every name of the spec still holds; once."""
    line = (
        f"spec of Toy: proven on torch 0.1; {NOW} is installed: {expected}; "
        "all that the spec names is still there"
    )
    assert _said(caplog, spec("0.1"), block) == [line]
    assert _said(caplog, spec("0.1"), block) == [line]


def test_a_forward_that_did_not_change_says_nothing(
    caplog: pytest.LogCaptureFixture, spec: Callable[[str], Spec]
) -> None:
    """Another version in which the blocks take the same arguments is no news."""
    assert _said(caplog, spec("0.1"), Block) == []
    assert _said(caplog, spec(NOW), type("Derived", (Block,), {})) == []


def test_a_fact_that_no_longer_holds_says_since_when(spec: Callable[[str], Spec]) -> None:
    """Beside the fact: the versions, what changed in the forward, and the commands that help."""
    read = spec("0.1")
    with pytest.raises(SpecError) as caught:
        autocache.patch(Toy(Broken), "easycache", spec=read)
    facts, since = str(caught.value).splitlines()
    missing = "Broken.forward has no argument 'text'; did you mean 'context'?"
    assert facts == f"{read.file}:4:52: {missing}"
    assert since == (
        f"{read.file}:7:3: proven on torch 0.1; {NOW} is installed: Broken.forward calls 'text' "
        "now 'context' and no longer takes 'mask'; `autocache specs verify Toy` says what no "
        f"longer holds, `autocache specs draft {__name__}:Toy` drafts the spec anew"
    )


def test_a_fact_that_never_held_is_not_blamed_on_the_package(spec: Callable[[str], Spec]) -> None:
    """With the version and the arguments as proven, the spec or the model is at fault."""
    model = Toy(Block)
    model.blocks = nn.Linear(1, 1)
    with pytest.raises(SpecError) as caught:
        autocache.patch(model, "easycache", spec=spec(NOW))
    assert "proven on" not in str(caught.value)
    with pytest.raises(SpecError, match=rf"proven on torch 0\.1; {NOW[0]}.* is installed;"):
        autocache.patch(model, "easycache", spec=spec("0.1"))
