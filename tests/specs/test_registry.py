"""Which spec file wins, and what happens when none does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autocache.errors import SpecError, UnknownModelError, nearest
from autocache.spec import registry
from autocache.spec.schema import Spec

DIT = "diffusers.models.transformers.dit_transformer_2d:DiTTransformer2DModel"
STACK = "stacks: [{path: blocks, block: B, streams: [x], returns: x}]"


def _write(folder: Path, model: str, name: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / (name or f"{model.rpartition(':')[2]}.yaml")
    file.write_text(f"schema: 1\nmodel: {model}\n{STACK}\n")
    return file


class Toy:
    """Stands in for a denoiser."""


TOY = f"{__name__}:Toy"


def test_own_directories_go_before_the_bundled_specs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in AUTOCACHE_SPECS replaces the bundled one of the same class, and no other."""
    file = _write(tmp_path / "own", DIT)
    toy = _write(tmp_path / "more", TOY)
    own = os.pathsep.join([str(file.parent), str(toy.parent)])
    monkeypatch.setenv("AUTOCACHE_SPECS", own)
    assert registry.index()[DIT] == file
    assert len(registry.specs()) == len(list(registry.directory().glob("*.yaml"))) + 1
    found = registry.find(Toy())
    assert found is not None
    assert found.file == toy


def test_two_files_for_one_class_are_an_error_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one layer nobody can tell which file is meant, so none is."""
    first, second = _write(tmp_path, TOY), _write(tmp_path, TOY, "Toy.yml")
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        registry.index()
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_a_directory_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing mistake in AUTOCACHE_SPECS does not pass for an empty directory."""
    monkeypatch.setenv("AUTOCACHE_SPECS", str(tmp_path / "none"))
    with pytest.raises(SpecError, match=r"AUTOCACHE_SPECS names .*none, which is not a directory"):
        registry.specs()


def test_a_spec_is_given_by_value_file_or_name(tmp_path: Path) -> None:
    """A Spec, a path, a path as text, a class name and a qualified name are all accepted."""
    file = _write(tmp_path, TOY)
    by_path = registry.resolve(file, Toy())
    assert isinstance(by_path, Spec)
    assert registry.resolve(by_path, Toy()) is by_path
    assert registry.resolve(str(file), Toy()) == by_path
    assert registry.resolve("DiTTransformer2DModel", Toy()).model == DIT
    assert registry.resolve(DIT, Toy()).model == DIT


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """The cache of loaded specs never outlives the file it was read from."""
    file = _write(tmp_path, TOY)
    assert registry.resolve(file, Toy()) is registry.resolve(file, Toy())
    file.write_text(file.read_text().replace("path: blocks", "path: layers"))
    os.utime(file, ns=(1, 1))
    assert registry.resolve(file, Toy()).stacks[0].path == "layers"


def test_an_undescribed_model_is_named_with_the_way_out() -> None:
    """The error names the class, the nearest described one and the option to pass."""
    other = type("DiTTransformerModel", (), {"__module__": "elsewhere"})
    with pytest.raises(UnknownModelError) as caught:
        registry.resolve(None, other())
    text = str(caught.value)
    assert "elsewhere:DiTTransformerModel; did you mean 'DiTTransformer2DModel'?" in text
    assert "pass spec=" in text
    assert registry.find(other) is None


def test_a_part_of_a_name_offers_the_names_it_is_in() -> None:
    """And not all that there are."""
    known = ["Flux2Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel"]
    assert nearest("flux", known) == f"; expected one of: {known[0]}, {known[1]}"
    assert nearest("xyz", known) == f"; expected one of: {', '.join(known)}"


def test_an_unknown_spec_name_offers_the_nearest() -> None:
    """A misspelt spec name is answered with the one that was meant."""
    with pytest.raises(UnknownModelError, match="did you mean 'FluxTransformer2DModel'"):
        registry.resolve("FluxTransformer2Model", Toy())


def test_reading_the_index_imports_nothing_heavy() -> None:
    """The index is read when the interpreter starts, so it must not cost an import."""
    code = (
        "import sys; from autocache.spec import registry; registry.index();"
        "print([m for m in ('torch', 'pydantic', 'yaml', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
