"""Where studies are kept: in memory, in a file, or in a database that workers share."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from autocache.errors import AutocacheError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DATABASES = (".db", ".sqlite", ".sqlite3")
JOURNALS = (".log", ".journal")
PATIENCE = 60.0
"""Seconds that a worker waits for another one's transaction on an SQLite file."""
ATTEMPTS = 5
"""Of opening a database: two workers that make its tables at the same moment disturb each other."""


def require_optuna() -> ModuleType:
    """Optuna, which does the searching.

    Raises:
        AutocacheError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise AutocacheError("searching needs Optuna: pip install 'autocache[tune]'") from error
    return optuna


def opened(storage: str | Path | None) -> BaseStorage:
    """The storage of that name, made where it does not exist yet.

    Args:
        storage: None keeps a study in memory. A path that ends in .db, .sqlite or .sqlite3 is an
            SQLite file; one that ends in .log or .journal is a journal, for a file system that
            several machines share; anything with "://" is a URL, of a database (SQLAlchemy's form,
            as postgresql://user:password@host/name) or of Redis.

    Raises:
        AutocacheError: it is none of these, it cannot be opened, or a driver is missing.
    """
    optuna = require_optuna()
    if storage is None:
        return optuna.storages.InMemoryStorage()
    text = str(storage)
    if text.startswith("redis"):
        backend = optuna.storages.journal.JournalRedisBackend(text)
        return optuna.storages.JournalStorage(backend)
    if "://" in text:
        return _database(optuna, text)
    path = Path(text).expanduser().absolute()
    if path.suffix not in DATABASES + JOURNALS:
        raise AutocacheError(
            f"storage={text!r}: expected a file that ends in {', '.join(DATABASES + JOURNALS)}, "
            "or the URL of a database"
        )
    if not path.parent.is_dir():
        raise AutocacheError(f"storage={text!r}: there is no directory {path.parent}")
    if path.suffix in DATABASES:
        return _database(optuna, f"sqlite:///{path.as_posix()}")
    return _journal(optuna, path)


def shown(storage: str | Path | None) -> str:
    """A storage's name for messages, without the password a URL may hold."""
    return "memory" if storage is None else re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", str(storage))


def _journal(optuna: ModuleType, path: Path) -> BaseStorage:
    lock = optuna.storages.journal.JournalFileSymlinkLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            written = path.read_bytes()
            # A worker killed while writing leaves half a line, which nobody could read past.
            if not written.endswith(b"\n"):
                os.truncate(path, written.rfind(b"\n") + 1)
        finally:
            lock.release()
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
    return optuna.storages.JournalStorage(backend)


def _database(optuna: ModuleType, url: str) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, DatabaseError

    options = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except DatabaseError as error:
            if attempt == ATTEMPTS:
                raise AutocacheError(f"cannot open {shown(url)}: {error}") from error
            time.sleep(0.1 * attempt)
        except ImportError as error:
            missing = error.__cause__ or error
            raise AutocacheError(
                f"cannot open {shown(url)}: its driver is not installed ({missing})"
            ) from error
        except ArgumentError as error:
            raise AutocacheError(f"cannot open {shown(url)}: {error}") from error
    raise AssertionError
