"""Which storage a name stands for."""

from __future__ import annotations

import optuna
import pytest

from autocache.errors import AutocacheError
from autocache.tuning.storage import opened, shown


def kind(storage) -> str:
    # Optuna wraps its databases in a cache.
    return type(getattr(storage, "_backend", storage)).__name__


def test_a_name_says_what_it_is(tmp_path):
    """Nothing is memory, endings tell databases from journals, and URLs are databases."""
    assert isinstance(opened(None), optuna.storages.InMemoryStorage)
    for ending in ("db", "sqlite", "sqlite3"):
        assert kind(opened(tmp_path / f"a.{ending}")) == "RDBStorage"
        assert (tmp_path / f"a.{ending}").is_file()
    for ending in ("log", "journal"):
        assert isinstance(opened(str(tmp_path / f"a.{ending}")), optuna.storages.JournalStorage)
    assert kind(opened(f"sqlite:///{tmp_path}/b.db")) == "RDBStorage"
    assert (tmp_path / "b.db").is_file()


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("study.txt", "expected a file that ends in"),
        ("nowhere/study.db", "no directory"),
        ("postgres+nothing://me:secret@host/studies", "cannot open"),
    ],
)
def test_what_cannot_be_opened_is_explained(tmp_path, monkeypatch, storage, said):
    """The message names the storage, but no password."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AutocacheError, match=said) as refused:
        opened(storage)
    assert "secret" not in str(refused.value)


def test_passwords_are_not_shown():
    """A URL is shown without what nobody else should read."""
    assert shown("postgresql://me:secret@host/studies") == "postgresql://me:***@host/studies"
    assert shown("sqlite:///a.db") == "sqlite:///a.db"
    assert shown(None) == "memory"
