"""The report as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocache.errors import AutocacheError
from autocache.reporting import charts
from autocache.reporting.maps import LETTERS, number
from autocache.reporting.view import view


def page(report: Mapping[str, Any]) -> str:
    """The page of a report. What comes from outside is escaped.

    Raises:
        AutocacheError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise AutocacheError("a page needs jinja2: pip install 'autocache[report]'") from error
    environment = Environment(
        loader=PackageLoader("autocache.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decibels"] = _decibels
    return environment.get_template("page.html").render(
        runs=[view(run) for run in report["runs"]],
        versions=report.get("versions") or {},
        devices=report.get("devices") or [],
        written=report.get("written"),
        pictures=report.get("pictures"),
        letters=LETTERS,
        drawing=charts,
    )


def _decibels(value: Any) -> str:
    read = number(value)
    if read is None:
        return "not known"
    return "identical" if read == float("inf") else f"{read:.1f} dB"
