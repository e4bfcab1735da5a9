"""Where specs may come from, which place wins, and what reading them costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import autocache
from autocache.errors import SpecError, UnknownModelError
from autocache.spec import layers, registry

TEXT = """\
schema: 1
model: {model}
timestep: t
stacks: [{{path: blocks, block: Block, streams: [x], returns: x}}]
"""
DIT = "diffusers.models.transformers.dit_transformer_2d:DiTTransformer2DModel"


class Block(nn.Module):
    """One block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x)


class Mine(nn.Module):
    """A denoiser that no bundled spec describes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


MINE = f"{__name__}:Mine"


def _write(folder: Path, model: str = MINE, name: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (name or f"{model.rpartition(':')[2]}.yaml")
    file.write_text(TEXT.format(model=model))
    return file


def _package(site: Path, name: str, value: str) -> Path:
    """Install a package whose entry point has that value; its directory."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[autocache.specs]\nmodels = {value}\n")
    package = site / name.replace("-", "_")
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    return package


def _used(spec: str | Path | None = None) -> str | None:
    with autocache.patch(Mine(), "easycache", spec=spec) as patch:
        return patch.stats().spec_file


def test_each_layer_goes_before_the_next_and_stats_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given > AUTOCACHE_SPECS > installed packages > bundled; statistics say which it was."""
    bundled = _write(tmp_path / "bundled")
    monkeypatch.setattr(layers, "directory", lambda: bundled.parent)
    assert _used() == str(bundled)
    packaged = _write(_package(tmp_path / "site", "with-models", "with_models.specs") / "specs")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert _used() == str(packaged)
    own = _write(tmp_path / "own")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(own.parent))
    assert _used() == str(own)
    given = _write(tmp_path / "given")
    assert _used(given) == str(given)


def test_the_list_says_which_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every known spec carries the layer it came from."""
    _package(tmp_path / "site", "with-models", "with_models")
    _write(tmp_path / "site" / "with_models", "elsewhere:Other")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    _write(tmp_path / "own", DIT)
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path / "own"))
    found = {info.name: info.layer for info in registry.specs()}
    assert found["Other"] == "entry point"
    assert found["DiTTransformer2DModel"] == "AUTOCACHE_SPECS"
    assert found["FluxTransformer2DModel"] == "bundled"


def test_an_entry_point_may_name_an_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module:attribute` holds the path of the directory, as text or Path."""
    package = _package(tmp_path, "with-attribute", "with_attribute:SPECS")
    (package / "__init__.py").write_text(
        "from pathlib import Path\nSPECS = Path(__file__).parent / 'data'\n"
    )
    file = _write(package / "data")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.index()[MINE] == file


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("not_installed_at_all", "names 'not_installed_at_all', which is no package"),
        ("broken.missing", "names 'broken.missing', which is no package"),
        ("broken:SPECS", "no path of a directory: RuntimeError: imported"),
        ("sys:maxsize", "no path of a directory: TypeError"),
        ("sys:platform", "which is not a directory"),
    ],
)
def test_an_entry_point_that_names_no_directory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    """The package is named, so that one knows what to mend or remove."""
    _package(tmp_path, "broken", value)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError) as caught:
        registry.index()
    assert str(caught.value).startswith("broken (entry point 'models' in the group")
    assert expected in str(caught.value)


@pytest.mark.parametrize("layer", ["AUTOCACHE_SPECS", "entry point", "bundled"])
def test_two_files_for_one_class_in_a_layer_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """Both files are named, whichever layer they are in; across layers there is no conflict."""
    one, other = tmp_path / "one", tmp_path / "other"
    if layer == "entry point":
        for name in ("one", "other"):
            _package(tmp_path, name, name)
        monkeypatch.syspath_prepend(str(tmp_path))
    elif layer == "bundled":
        other = one
        monkeypatch.setattr(layers, "directory", lambda: one)
    else:
        other.mkdir()
        monkeypatch.setenv("AUTOCACHE_SPECS", os.pathsep.join([str(one), str(other)]))
    first, second = _write(one), _write(other, name="Mine.yml")
    with pytest.raises(SpecError) as caught:
        registry.index()
    assert str(caught.value) == f"{first} and {second} both describe {MINE}; remove one of them"


def test_a_name_that_two_modules_share_must_be_given_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork with its class's old name does not take the place of the original by accident."""
    file = _write(tmp_path, "fork.models:DiTTransformer2DModel")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"several specs are called .*; give one in full"):
        registry.resolve("DiTTransformer2DModel", Mine())
    assert registry.resolve("fork.models:DiTTransformer2DModel", Mine()).file == file


def test_a_fork_may_say_that_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three lines describe a class that moved: the facts, and their file, are the original's."""
    original = _write(tmp_path, "package.module:Original")
    fork = tmp_path / "Mine.yaml"
    fork.write_text(f"schema: 1\nmodel: {MINE}\nsame_as: package.module:Original\n")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    with autocache.patch(Mine(), "dit_block", blocks={"blocks": (0, 2)}) as patch:
        assert (patch.spec.name, patch.spec.model) == ("Mine", MINE)
        assert patch.stats().spec_file == str(original)
    derived = type("Derived", (Mine,), {})
    found = registry.find(derived)
    assert found is not None
    assert found.model == MINE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("same_as: package.module:Orignal", "3:1: no spec describes package.module:Orignal; did"),
        (f"same_as: {MINE}", f"3:1: {MINE} is itself the same as {MINE}; name that one"),
        ("same_as: package.module:Original\ntimestep: t", "4:1: 'timestep' cannot be given"),
    ],
)
def test_a_fork_that_is_the_same_as_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    """The other spec must exist, have facts, and give all of them."""
    _write(tmp_path, "package.module:Original")
    fork = tmp_path / "Mine.yaml"
    fork.write_text(f"schema: 1\nmodel: {MINE}\n{text}\n")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        registry.find(Mine)
    assert str(caught.value).startswith(f"{fork}:{expected}")


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "# a comment\n\n" + TEXT,
        "\ufeff" + TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("model: {model}", "model:   '{model}'   # whose it is"),
        TEXT.replace("model: {model}", 'model: "{model}"'),
        TEXT.replace("model: {model}", '"model" : !!str "{model}"'),
        TEXT.replace("model: {model}", "model:\n  {model}"),
        TEXT.replace("model: {model}", "model: >-\n  {model}"),
        TEXT.replace("model: {model}", "model: &here {model}"),
        TEXT.replace("schema: 1\nmodel: {model}", "model: {model}\nschema: 1"),
        "#" * 5000 + "\n" + TEXT,
        TEXT.replace("timestep: t", "no_blocks: |\n  model: other:Class"),
        TEXT.replace("model: {model}\n", "") + 'model: "{model}"',
        "{{schema: 1, no_blocks: why, model: '{model}'}}",
        'no_blocks: "why\nmodel: other:Class\n"\n' + TEXT,
    ],
)
def test_however_it_is_written_the_class_is_found(tmp_path: Path, text: str) -> None:
    """The index reads the same class from a file as the loader does."""
    file = tmp_path / "Mine.yaml"
    file.write_bytes(text.format(model=MINE).encode())
    assert layers.model_of(file) == MINE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schema: 1\nmodle: a:B\n", "1:1: a spec names its class as model: package.module:Class"),
        ("schema: 1\nmodel: a:B and more\n", "2:1: a spec names its class"),
        ("schema: 1\nmodel: a:B\n  continued\n", "2:1: a spec names its class"),
        ("schema: 1\nmodel: a:B#c\n", "2:1: a spec names its class"),
        ("schema: 1\nmodel: [a:B]\n", "2:1: a spec names its class"),
        ("schema: [\n", "not valid YAML"),
        ("- a\n", "expected a mapping"),
    ],
)
def test_a_file_that_names_no_class_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    """Otherwise it would never be found, and nothing would say so."""
    (tmp_path / "Mine.yaml").write_text(text)
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        registry.index()
    assert str(caught.value).startswith(f"{tmp_path / 'Mine.yaml'}:")
    assert expected in str(caught.value)


def test_yaml_that_is_no_spec_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package may keep settings of its own beside its specs."""
    (tmp_path / "settings.yaml").write_text("level: 3\n")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    assert all(info.layer == "bundled" for info in registry.specs())


def test_the_index_imports_no_package_that_offers_specs(tmp_path: Path) -> None:
    """Not the package with specs, and no parser as long as files have the usual form."""
    package = _package(tmp_path, "heavy", "heavy.inner.specs")
    file = _write(package / "inner" / "specs")
    code = (
        "import sys; from autocache.spec import registry; index = registry.index();"
        f"assert str(index[{MINE!r}]) == {str(file)!r};"
        "print({'heavy', 'torch', 'pydantic', 'yaml', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "set()"
