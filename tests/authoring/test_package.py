"""What `autocache.authoring` offers."""

from __future__ import annotations

import importlib
import inspect

import pytest

from autocache import authoring


@pytest.mark.parametrize("name", authoring.__all__)
def test_what_is_offered_is_a_documented_function(name: str) -> None:
    """Also where a module has the same name and was imported."""
    for module in ("draft", "validate", "verify"):
        importlib.import_module(f"autocache.authoring.{module}")
    assert inspect.isfunction(getattr(authoring, name))
    assert inspect.getdoc(getattr(authoring, name))
