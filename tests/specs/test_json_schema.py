"""The published JSON Schema says what the loader does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from autocache.authoring.json_schema import schema, text
from autocache.spec.layers import directory
from autocache.spec.schema import Spec
from tests.specs.spoiled import GOOD, PATHS, WRONG, replaced

FILES = sorted(directory().glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(schema())
BETWEEN_KEYS = {"facts"}
"""The kind of error that a schema cannot express."""
JSON = [value for value in WRONG if value == value and value != float("inf")]


def test_the_published_file_is_current() -> None:
    """`autocache specs schema > model_specs/spec.schema.json` was run after the last change."""
    assert (directory() / "spec.schema.json").read_text(encoding="utf-8") == text()


def test_it_is_a_json_schema() -> None:
    """Of the draft that it says it is, and JSON all through."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(text()) == schema()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_bundled_spec_refers_to_it_and_fits(file: Any) -> None:
    """Its first line tells an editor where the schema is, and nothing is underlined there."""
    first, _, rest = file.read_text(encoding="utf-8").partition("\n")
    assert first == "# yaml-language-server: $schema=spec.schema.json"
    assert (file.parent / "spec.schema.json").is_file()
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(rest))] == []


def _accepted(value: Any) -> bool:
    try:
        Spec.model_validate(value)
    except ValidationError as error:
        return {item["type"] for item in error.errors()} <= BETWEEN_KEYS
    return True


@pytest.mark.parametrize("wrong", JSON, ids=lambda value: repr(value)[:20])
def test_it_is_as_strict_as_the_loader(wrong: Any) -> None:
    """Every value of a spec replaced, one at a time: both refuse it or neither does."""
    value = yaml.safe_load(GOOD)
    for path in PATHS:
        if path == ("schema",) and wrong is True:  # which Python takes for 1
            continue
        spoiled = replaced(value, path, wrong)
        assert VALIDATOR.is_valid(spoiled) == _accepted(spoiled), path


@pytest.mark.parametrize(
    "spoiled",
    [
        {"schema": 1},
        {"schema": 1, "model": "a:B"},
        {**yaml.safe_load(GOOD), "stack": []},
        {**yaml.safe_load(GOOD), "probes": {"a": {"argument": "x", "output_of": {"module": "m"}}}},
    ],
    ids=["no model", "no facts", "an unknown key", "two ways to a probe"],
)
def test_a_key_missing_or_too_many_is_refused(spoiled: Any) -> None:
    """What a person forgets or misspells is seen in the editor already."""
    assert not VALIDATOR.is_valid(spoiled)
    with pytest.raises(ValidationError):
        Spec.model_validate(spoiled)


def _properties(part: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        for name, inner in part.get("properties", {}).items():
            yield f"{at}.{name}", inner
        for name, inner in part.items():
            yield from _properties(inner, f"{at}.{name}")


def test_editors_have_something_to_show() -> None:
    """Every key is described, where it stands or where what it holds is defined."""
    definitions = schema()["$defs"]
    for name, part in _properties(schema()):
        choices = [part, *part.get("anyOf", [])]
        names = [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]
        described = [*choices, *(definitions[name] for name in names)]
        assert any(len(item.get("description", "")) > 10 for item in described), name
