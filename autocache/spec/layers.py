"""Where spec files are, and which class each of them describes.

Imports neither torch nor pydantic nor yaml: all of it runs when the interpreter starts. That also
is why the class is read from the head of a file, by a pattern that only fits the usual form; a file
in any other form is parsed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocache.errors import SpecError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENVIRONMENT = "AUTOCACHE_SPECS"
ENTRY_POINTS = "autocache.specs"
SUFFIXES = (".yaml", ".yml")

Layer = Literal["AUTOCACHE_SPECS", "entry point", "bundled"]
"""Where a spec comes from, the first that describes a class wins."""

_HEAD = 2048
_MODEL = re.compile(
    rb"(?:\xef\xbb\xbf)?"
    rb"(?:[ \t]*(?:#[^\r\n]*)?\r?\n|schema:[ \t]+\d+[ \t]*(?:[ \t]#[^\r\n]*)?\r?\n)*"
    rb"model:[ \t]+([\"']?)([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)\1[ \t]*(?:[ \t]#[^\r\n]*)?\r?\n"
    rb"(?=[A-Za-z_#\r\n])",
    re.ASCII,
)
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def layers() -> list[tuple[Layer, dict[str, Path]]]:
    """The spec file of every class that a layer describes, keyed "module:Class", first layer first.

    Raises SpecError when two files of one layer claim the same class, or when AUTOCACHE_SPECS or an
    installed package names something that is no directory.
    """
    return [
        (ENVIRONMENT, _claims(_environment())),
        ("entry point", _claims(_installed(tuple(sys.path)))),
        ("bundled", _claims([directory()])),
    ]


def directory() -> Path:
    """The folder of the bundled specs: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "model_specs"
    return installed if installed.is_dir() else package.parent / "model_specs"


def files_in(folder: Path) -> list[Path]:
    """The YAML files of a folder, by name. Raises SpecError when it cannot be read."""
    try:
        files = [file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file()]
    except OSError as error:
        raise SpecError(f"{folder}: cannot read the directory: {error.strerror}") from None
    return sorted(files)


def _environment() -> Iterator[Path]:
    for part in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
        yield _directory(Path(part).expanduser(), ENVIRONMENT)


@functools.lru_cache(maxsize=1)
def _installed(_path: tuple[str, ...]) -> list[Path]:
    """The directories that installed packages name; read again when `sys.path` changes."""
    from importlib.metadata import entry_points

    return [folder for point in entry_points(group=ENTRY_POINTS) for folder in _named_by(point)]


def _named_by(point: EntryPoint) -> Iterator[Path]:
    owner = point.dist.name if point.dist else "an unknown package"
    who = f"{owner} (entry point {point.name!r} in the group {ENTRY_POINTS})"
    if point.attr:
        yield _directory(Path(os.fspath(_loaded(point, who))), who)
        return
    # The parent of a dotted name would be imported by a look-up of the whole name, and with it
    # perhaps torch.
    top, *inner = point.module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = None
    folders = [Path(place, *inner) for place in (found and found.submodule_search_locations) or ()]
    existing = [folder for folder in folders if folder.is_dir()]
    if not existing:
        raise SpecError(f"{who} names {point.value!r}, which is no package with spec files")
    yield from existing


def _loaded(point: EntryPoint, who: str) -> Any:
    try:
        value = point.load()
        return os.fspath(value)
    except Exception as error:  # whatever somebody else's module raises
        message = f"{who} names {point.value!r}, which is no path of a directory"
        raise SpecError(f"{message}: {type(error).__name__}: {error}") from error


def _directory(folder: Path, who: str) -> Path:
    if not folder.is_dir():
        raise SpecError(f"{who} names {folder}, which is not a directory")
    return folder


def _claims(folders: Iterable[Path]) -> dict[str, Path]:
    claims: dict[str, Path] = {}
    # Two names of one directory are no conflict.
    for file in dict.fromkeys(file for folder in folders for file in files_in(folder)):
        model = model_of(file)
        if model is None:
            continue
        if model in claims:
            raise SpecError(f"{claims[model]} and {file} both describe {model}; remove one of them")
        claims[model] = file
    return claims


def model_of(file: Path) -> str | None:
    """The class that a file describes, "module:Class"; None when it is YAML but no spec.

    Raises SpecError when it cannot be read or parsed, or is a spec that names no class.
    """
    try:
        state = file.stat()
    except OSError as error:
        raise SpecError(f"{file}:1:1: cannot read the file: {error.strerror}") from None
    return _model_in(file, state.st_mtime_ns, state.st_size)


@functools.cache
def _model_in(file: Path, _changed: int, _size: int) -> str | None:
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise SpecError(f"{file}:1:1: cannot read the file: {error.strerror}") from None
    found = _MODEL.match(head)
    return found[2].decode() if found else _parsed(file)


def _parsed(file: Path) -> str | None:
    from autocache.spec.document import read

    document = read(file)
    if not {"schema", "model"} & set(document.value):
        return None
    model = document.value.get("model")
    if isinstance(model, str) and _NAME.fullmatch(model):
        return model
    where = document.position(("model",))
    raise SpecError(f"{where}: a spec names its class as model: package.module:Class")
