"""Hooks that run after a module's import."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from autocache import activation_imports

NAME = "autocache_watched_module"


@pytest.fixture(autouse=True)
def watched_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module to import, and the import system as it was afterwards."""
    path = tmp_path / f"{NAME}.py"
    path.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield path
    sys.meta_path[:] = before
    sys.modules.pop(NAME, None)


def test_the_hook_gets_the_finished_module(watched_file: Path) -> None:
    """It runs once, after the body, and the module keeps its own loader."""
    seen: list[int] = []
    activation_imports.watch({NAME: lambda module: seen.append(module.VALUE)})
    assert seen == []
    module = importlib.import_module(NAME)
    assert seen == [1]
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert inspect.getsource(module) == "VALUE = 1\n"


def test_a_module_that_is_there_is_hooked_at_once() -> None:
    """Watching after the import is not too late."""
    module = importlib.import_module(NAME)
    seen: list[ModuleType] = []
    activation_imports.watch({NAME: seen.append})
    assert seen == [module]


def test_asking_whether_a_module_exists_runs_no_hook() -> None:
    """Libraries probe with find_spec; the hook still runs when the import comes."""
    seen: list[ModuleType] = []
    activation_imports.watch({NAME: seen.append})
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.is_package(NAME) is False  # type: ignore[attr-defined]
    assert seen == []
    importlib.import_module(NAME)
    assert len(seen) == 1


def test_a_failing_hook_never_breaks_the_import(capsys: pytest.CaptureFixture[str]) -> None:
    """The module is there, and stderr has one line."""

    def hook(module: ModuleType) -> None:
        raise ValueError("no luck")

    activation_imports.watch({NAME: hook})
    assert importlib.import_module(NAME).VALUE == 1
    assert capsys.readouterr().err == f"autocache: {NAME} not watched: ValueError: no luck\n"


def test_a_module_that_fails_to_import_fails_as_before(watched_file: Path) -> None:
    """Its own exception arrives unchanged and the hook stays silent."""
    watched_file.write_text("raise RuntimeError('mine')\n")
    importlib.invalidate_caches()
    seen: list[ModuleType] = []
    activation_imports.watch({NAME: seen.append})
    with pytest.raises(RuntimeError, match="mine"):
        importlib.import_module(NAME)
    assert seen == []
