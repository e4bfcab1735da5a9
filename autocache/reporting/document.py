"""The report as data: what a JSON report holds, and what pages and figures are made from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import autocache
from autocache.errors import AutocacheError
from autocache.jsonable import jsonable

FORMAT = "autocache report 1"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


def document(
    runs: Sequence[Mapping[str, Any]],
    devices: Sequence[str] = (),
    pictures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A report of some runs, each as `RunStats.to_dict` gives it, ready for JSON."""
    made = {
        "format": FORMAT,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "devices": list(dict.fromkeys(devices)),
        "runs": [dict(run) for run in runs],
        "pictures": dict(pictures) if pictures else None,
    }
    # What is written and what is shown at once are the same, whatever a parameter was.
    return json.loads(text(made))


def text(report: Mapping[str, Any]) -> str:
    """The report as strict JSON: what is not finite is a string, and what is no data its `str`."""
    return json.dumps(jsonable(report), indent=1, allow_nan=False) + "\n"


def versions() -> dict[str, str]:
    """Versions of what a run rests on, those that are installed."""
    found = {"autocache": autocache.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "python": platform.python_version(), "system": platform.platform()}


def read(file: str | Path) -> dict[str, Any]:
    """A report from a JSON file: of `autocache.report`, of AUTOCACHE_STATS, or one `to_dict`.

    Statistics alone do not say which versions and devices they are of; the report is silent on it.

    Raises:
        AutocacheError: the file cannot be read, or holds none of these.
    """
    path = Path(file)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AutocacheError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AutocacheError(f"{path} is not JSON: {error}") from error
    whole = isinstance(content, dict) and "format" in content
    if whole and content["format"] != FORMAT:
        raise AutocacheError(
            f"{path} is of format {content['format']!r}; this version reads {FORMAT!r}"
        )
    runs = content if isinstance(content, list) else [content]
    runs = content.get("runs") if whole else runs
    if not isinstance(runs, list) or not all(_is_run(run) for run in runs):
        raise AutocacheError(
            f"{path} holds no statistics; expected a JSON report of autocache.report, a file of "
            "AUTOCACHE_STATS, or what RunStats.to_dict() gives"
        )
    if whole:
        return dict(content)
    return {**document(runs), "versions": {}}


def _is_run(run: Any) -> bool:
    return isinstance(run, dict) and "strategy" in run and isinstance(run.get("steps"), list)
