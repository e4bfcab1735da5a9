"""Binding a spec to a model it does not quite fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autocache.errors import SpecError
from autocache.spec.bind import Signature, bind
from autocache.spec.loader import load
from autocache.spec.schema import Spec

TEXT = """\
schema: 1
model: package.module:Toy
timestep: t
stacks:
  - path: blocks
    block: Block
    streams: [x]
    returns: x
    attention: {attn: self}
    feed_forward: [mlp]
probes:
  argument: {argument: temb}
  call: {call: {module: mlp, arguments: {input: x}}}
  input: {input_of: {module: mlp, argument: input}}
  output: {output_of: {module: embed}}
"""


class Block(nn.Module):
    """A block with one attention and one feed-forward module."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(2, 2)
        self.mlp = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, temb: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + scale * self.mlp(self.attn(x)) + temb


class Toy(nn.Module):
    """A denoiser with two blocks."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, self.embed(t))
        return x


def _spec(tmp_path: Path, text: str = TEXT) -> Spec:
    file = tmp_path / "Toy.yaml"
    file.write_text(text)
    return load(file)


def test_a_fitting_spec_binds(tmp_path: Path) -> None:
    """The bound stack holds the live blocks; derived block classes count as their base."""
    model = Toy()
    model.blocks[1].__class__ = type("Patched", (Block,), {})
    bound = bind(_spec(tmp_path), model)
    assert bound.stacks[0].blocks == tuple(model.blocks)
    assert bound.block_count == 2


def test_an_empty_stack_has_no_blocks(tmp_path: Path) -> None:
    """A configuration may leave a stack empty."""
    assert bind(_spec(tmp_path), Toy(blocks=0)).block_count == 0


def test_submodules_that_only_some_blocks_have_are_taken_where_they_are(tmp_path: Path) -> None:
    """One block may lack a named module, and with a question mark all of them may."""
    text = TEXT.replace("{attn: self}", "{attn: self, cross?: cross}")
    model = Toy(blocks=3)
    del model.blocks[2].attn
    bound = bind(_spec(tmp_path, text), model)
    assert (bound.attention_count, bound.attention_kinds) == (2, {"self"})
    assert [len(bound.stacks[0].attention(index)) for index in range(3)] == [1, 1, 0]
    model.blocks[1].cross = nn.Linear(2, 2)
    bound = bind(_spec(tmp_path, text), model)
    assert (bound.attention_count, bound.attention_kinds) == (3, {"self", "cross"})
    assert [path for path, _ in bound.stacks[0].feed_forward(1)] == ["mlp"]


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("path: blocks", "path: block", "5:5: Toy has no 'block'; did you mean 'blocks'?"),
        ("path: blocks", "path: embed", "5:5: 'embed' is a Linear, not a ModuleList"),
        ("block: Block", "block: Blok", "6:5: the blocks of 'blocks' are Block, not Blok"),
        ("[x]\n    returns: x", "[y]\n    returns: y", "7:15: Block.forward has no argument 'y'"),
        ("timestep: t", "timestep: ts", "3:1: Toy.forward has no argument 'ts'"),
        ("{attn: self}", "{atn: self}", "9:17: Block has no submodule 'atn'; did you mean 'attn'?"),
        ("[mlp]", "[mpl]", "10:20: Block has no submodule 'mpl'; did you mean 'mlp'?"),
        ("{argument: temb}", "{argument: tmb}", "no argument 'tmb'; did you mean 'temb'?"),
        ("call: {module: mlp", "call: {module: ml", "13:17: Block has no submodule 'ml'"),
        ("{input: x}", "{inputs: x}", "13:42: Linear.forward has no argument 'inputs'"),
        ("{input: x}", "{input: xs}", "13:42: Block.forward has no argument 'xs'"),
        ("argument: input}", "argument: inpt}", "Linear.forward has no argument 'inpt'"),
        ("module: embed", "module: embd", "Toy has no submodule 'embd'; did you mean 'embed'?"),
    ],
)
def test_a_fact_that_does_not_hold_is_an_error(
    tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    """Each wrong fact is named with its position in the file and the nearest right one."""
    assert right in TEXT
    with pytest.raises(SpecError) as caught:
        bind(_spec(tmp_path, TEXT.replace(right, wrong, 1)), Toy())
    assert f"{tmp_path / 'Toy.yaml'}:" in str(caught.value)
    assert expected in str(caught.value)


def test_all_wrong_facts_are_reported_together(tmp_path: Path) -> None:
    """One run over the model finds every mistake."""
    text = TEXT.replace("timestep: t", "timestep: s").replace("[mlp]", "[mpl]")
    with pytest.raises(SpecError) as caught:
        bind(_spec(tmp_path, text), Toy())
    assert len(str(caught.value).splitlines()) == 2


def test_a_spec_without_a_file_still_says_where(tmp_path: Path) -> None:
    """An error in a spec built in memory names the location instead of a line."""
    stack = {"path": "none", "block": "Block", "streams": ["x"], "returns": "x"}
    spec = Spec.model_validate({"schema": 1, "model": "m:Toy", "timestep": "t", "stacks": [stack]})
    with pytest.raises(SpecError, match=r"^<spec Toy>:stacks.0.path: Toy has no 'none'"):
        bind(spec, Toy())


def test_arguments_are_found_as_the_callee_would() -> None:
    """By keyword, by position, by default; and a missing one is a TypeError."""
    names = Signature(Block)
    assert names.get("temb", (1,), {"temb": 2}) == 2
    assert names.get("temb", (1, 2), {}) == 2
    assert names.get("scale", (1, 2), {}) == 1.0
    with pytest.raises(TypeError, match="argument 'temb' is missing"):
        names.get("temb", (1,), {})
