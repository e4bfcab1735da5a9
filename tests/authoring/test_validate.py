"""Everything that is wrong with spec files, found without running a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from autocache.authoring.validate import check, validate
from autocache.spec.layers import directory

HERE = __name__
TEXT = f"""\
schema: 1
model: {HERE}:Toy
timestep: t
latent: x
stacks:
  - path: blocks
    block: Block
    streams: [x]
    returns: x
    attention: {{attn: self}}
probes:
  temb: {{argument: temb}}
teacache:
  - {{id: a, match: {{layers: 2}}, probe: temb, coefficients: [1.0], provenance: bundled,
     source: s}}
presets:
  dit_block:
    - {{match: {{layers: 2}}, parameters: {{step_interval: 2}}, source: s}}
proof:
  package: toys 1.0
  config: {{layers: 2}}
"""


class Block(nn.Module):
    """A block with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return x + self.attn(x) + temb


class Toy(nn.Module):
    """A denoiser that would take 40 GB if it had weights."""

    def __init__(self, layers: int, width: int = 100_000) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, t)
        return x


class WantsValues(Toy):
    """A denoiser that cannot be built without values."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers, width=2)
        self.scale = float(torch.linspace(0, 1, layers)[-1].item())


def _file(folder: Path, text: str = TEXT, name: str = "Toy.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def test_a_good_file_has_no_problems(tmp_path: Path) -> None:
    """Names are looked up in the class without making its weights."""
    assert validate(_file(tmp_path)) == []


def test_the_bundled_specs_are_valid() -> None:
    """Format and names of every spec that ships."""
    assert validate(directory()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (f"{HERE}:Toy", f"{HERE}:Toi", f"2:1: {HERE} has no class 'Toi'; did you mean 'Toy'?"),
        (f"{HERE}:Toy", "torch.nothing:Toy", "2:1: cannot import torch.nothing: ModuleNotFound"),
        (f"{HERE}:Toy", "pathlib:Path", "2:1: Path is no class of torch modules"),
        ("timestep: t", "timestep: tt", "3:1: Toy.forward has no argument 'tt'"),
        ("path: blocks", "path: block", "6:5: Toy has no 'block'; did you mean 'blocks'?"),
        ("block: Block", "block: Blok", "7:5: the blocks of 'blocks' are Block, not Blok"),
        ("attn: self", "atn: self", "10:17: Block has no submodule 'atn'; did you mean 'attn'?"),
        ("argument: temb", "argument: tmb", "12:10: Block.forward has no argument 'tmb'"),
        ("{layers: 2}, probe", "{layer: 2}, probe", "14:21: the config of Toy has no 'layer'; did"),
        ("dit_block:", "dit_blok:", "17:3: no strategy is named 'dit_blok'; did you mean"),
        ("{layers: 2}, par", "{lyers: 2}, par", "18:16: the config of Toy has no 'lyers'; did"),
        ("step_interval", "step_intervall", "18:28: dit_block has no parameter"),
        ("step_interval: 2", "step_interval: 0", "18:28: dit_block: "),
        ("config: {layers: 2}", "config: {layer: 2}", "21:3: config: cannot build Toy: TypeError"),
        ("config: {layers: 2}", "confg: {layers: 2}", "21:3: unknown key 'confg'; did you mean"),
    ],
)
def test_a_wrong_name_has_a_position_and_the_nearest(
    tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    """Each name that does not exist, with where it stands and what there is instead."""
    assert right in TEXT
    text = TEXT.replace(right, wrong, 1)
    name = re.search(r":(\w+)\ntimestep", text)
    file = _file(tmp_path, text, f"{name[1] if name else 'Toy'}.yaml")
    problems = validate(file)
    assert any(line.startswith(f"{file}:{expected}") for line in problems), problems


def test_everything_is_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Problems of all kinds, of all files."""
    text = TEXT.replace("timestep: t", "timestep: tt").replace("dit_block", "dit_blok")
    one = _file(
        tmp_path / "one", text.replace("atn", "attn").replace("path: blocks", "path: bloks")
    )
    other = _file(tmp_path / "other", "schema: 2\nmodel: a:B\n", "B.yaml")
    lines = [re.match(r".*/(\w+)/\w+\.yaml:(\d+):", p) for p in validate([one, other, tmp_path])]
    assert [(line[1], int(line[2])) for line in lines if line] == [
        ("one", 3),
        ("one", 6),
        ("one", 17),
        ("other", 1),
    ]


def test_two_files_that_describe_one_class_name_each_other(tmp_path: Path) -> None:
    """Which of them counts nobody could tell."""
    first, second = _file(tmp_path / "one"), _file(tmp_path / "other")
    assert validate([tmp_path / "one", tmp_path / "other"]) == [
        f"{second}:2:1: {HERE}:Toy is also described in {first}:2:1; remove one"
    ]
    assert validate([first, first, tmp_path / "one"]) == []


def test_a_directory_is_read_as_one_of_specs(tmp_path: Path) -> None:
    """What is no spec is left alone there, what is a broken one is not."""
    _file(tmp_path)
    _file(tmp_path, "level: 3\n", "settings.yaml")
    assert [checked.file.name for checked in check(tmp_path)] == ["Toy.yaml"]
    broken = _file(tmp_path, "schema: [\n", "Broken.yaml")
    (problem,) = validate(tmp_path)
    assert problem.startswith(f"{broken}:2:1: not valid YAML")
    missing = tmp_path / "none.yaml"
    assert validate(missing) == [f"{missing}:1:1: cannot read the file: No such file or directory"]


def test_a_package_that_is_not_installed_is_noted(tmp_path: Path) -> None:
    """Its names cannot be looked up, and that is said instead of passing for checked."""
    text = TEXT.replace(f"{HERE}:Toy", "not_installed.models:Toy").replace("step_interval", "steps")
    (checked,) = check(_file(tmp_path, text))
    assert checked.note == (
        "not_installed is not installed, so what the spec names in it was not looked up"
    )
    assert len(checked.problems) == 1  # parameters of strategies are known all the same


def test_a_class_that_needs_values_is_built_small(tmp_path: Path) -> None:
    """Where the constructor computes with values, the tiny model of the proof is made."""
    text = TEXT.replace(f"{HERE}:Toy", f"{HERE}:WantsValues").replace("attn: self", "atn: self")
    problems = validate(_file(tmp_path, text, "WantsValues.yaml"))
    assert len(problems) == 1
    assert "Block has no submodule 'atn'" in problems[0]


def test_without_a_proof_arguments_are_still_checked(tmp_path: Path) -> None:
    """Where nothing says how to build the class, its forward and its blocks' tell as much."""
    text = TEXT[: TEXT.index("proof:")].replace("[x]", "[y]").replace("returns: x", "returns: y")
    problems = validate(_file(tmp_path, text.replace("timestep: t", "timestep: tt")))
    assert [problem.split(": ", 1)[1].split(";")[0] for problem in problems] == [
        "Toy.forward has no argument 'tt'",
        "Block.forward has no argument 'y'",
    ]


def test_a_pipeline_that_diffusers_does_not_have(tmp_path: Path) -> None:
    """A misspelt pipeline would never be found, and its guidance never known."""
    bundled = (directory() / "DiTTransformer2DModel.yaml").read_text()
    file = _file(
        tmp_path, bundled.replace("DiTPipeline", "DitPipeline"), "DiTTransformer2DModel.yaml"
    )
    assert validate(file)
    assert all("diffusers has no pipeline 'DitPipeline'; did" in line for line in validate(file))


def test_a_fork_may_be_the_same_as_another_of_the_files(tmp_path: Path) -> None:
    """The other spec is known already, or given as well."""
    _file(tmp_path)
    fork = _file(
        tmp_path, f"schema: 1\nmodel: fork.models:Fork\nsame_as: {HERE}:Toy\n", "Fork.yaml"
    )
    assert validate(tmp_path) == []
    assert validate(fork)[0].startswith(f"{fork}:3:1: no spec describes {HERE}:Toy")
    flux = "diffusers.models.transformers.transformer_flux:FluxTransformer2DModel"
    fork.write_text(f"schema: 1\nmodel: fork.models:Fork\nsame_as: {flux}\n")
    assert validate(fork) == []
