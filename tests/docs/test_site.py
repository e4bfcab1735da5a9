"""The site builds without a warning, and a reader of it fetches nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import autocache
from autocache import how, probe, when, where
from scripts import ROOT, tool

SITE = tool("site_sources")
# What a browser loads by itself; links that a reader may follow are not among them.
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)")
STYLES = re.compile(r"<link\b[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*>")
HREF = re.compile(r"href=[\"']?([^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `mkdocs build --strict` does: a warning raises."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    out = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True))
    return out


def test_every_page_is_there(site: Path) -> None:
    """Each Markdown file of docs is a page."""
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs")
        name = "" if place.stem in ("index", "README") else place.stem
        assert (site / place.parent / name / "index.html").is_file(), place


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own."""
    pages = list(site.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = LOADED.findall(text)
        loaded += [url for link in STYLES.findall(text) for url in HREF.findall(link)]
        assert loaded
        assert [url for url in loaded if urlsplit(url).netloc] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_a_link_to_a_file_of_the_repository_leads_to_its_text(site: Path) -> None:
    """A promise's test can be read on the site."""
    page = (site / "guarantees" / "index.html").read_text(encoding="utf-8")
    assert 'href="../source/tests/company/test_threads.py/"' in page
    shown = (site / "source/tests/company/test_threads.py/index.html").read_text(encoding="utf-8")
    assert "def" in shown
    assert "test_threads.py" in shown


def test_links_that_leave_the_documentation_are_told_from_others() -> None:
    """By where they lead from that page."""
    text = "[b](../choosing.md) [c](../../examples/y#L3) [d](z.md)"
    assert SITE.outside(text, "strategies/auto.md") == ["examples/y"]
    assert SITE.outside("[a](../tests/x.py) [z](z.md)", "auto.md") == ["tests/x.py"]


def test_the_reference_has_every_public_name() -> None:
    """Of the package and of the parts for composing."""
    folder = ROOT / "docs" / "reference"
    text = "\n".join(page.read_text() for page in folder.glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    parts = {"when": when, "where": where, "how": how, "probe": probe}
    for name, module in parts.items():
        classes = {n for n in module.__all__ if isinstance(getattr(module, n), type)}
        assert {f"autocache.{name}.{n}" for n in classes} <= shown
    modules = {*parts, "errors", "demo"}
    assert {f"autocache.{name}" for name in autocache.__all__ if name not in modules} <= shown
    assert "autocache.errors" in shown


def test_the_settings_ask_for_nothing_remote() -> None:
    """Fonts above all, which the theme would fetch."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert "\n  font: false" in text
    assert "http" not in text
