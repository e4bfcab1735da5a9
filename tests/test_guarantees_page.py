"""docs/guarantees.md promises nothing that no test shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"
LINK = re.compile(r"\[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")


def _lines(heading: str) -> list[str]:
    """The items of the sections under a heading of first order below the title."""
    chapters = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    chapter = next(text for text in chapters if text.startswith(heading))
    items = re.findall(r"^- .*(?:\n  .*)*", chapter, flags=re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def _tests(path: Path) -> set[str]:
    """The names of the test functions of a file, those of its classes among them."""
    tree = ast.parse(path.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    machines = re.findall(r"^(Test\w+|test_\w+) = ", path.read_text(), flags=re.MULTILINE)
    return {node.name for node in functions} | set(machines)


def test_there_are_promises_and_limits() -> None:
    """The page has both of its chapters."""
    assert len(_lines("Promised")) > 30
    assert len(_lines("Not promised")) > 5


@pytest.mark.parametrize("line", _lines("Promised"), ids=lambda line: line[2:40])
def test_each_promise_names_its_test(line: str) -> None:
    """It links a file of tests, and names a test that is in it."""
    links = LINK.findall(line)
    assert links, line
    for name, path in links:
        assert name.startswith("test_"), name
        assert name in _tests(ROOT / path), f"{path} has no {name}"
