"""The format of spec files as a JSON Schema, with which editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from autocache.spec.schema import Spec


class _Untitled(GenerateJsonSchema):
    """Without a title for each key: it would only say the key again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file.

    It knows keys, types, allowed values and what each key means. What concerns several keys, such
    as streams that are returned, only the loader checks.
    """
    generated = Spec.model_json_schema(by_alias=True, schema_generator=_Untitled)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "title": "autocache model spec",
    }


def text() -> str:
    """The same as the content of a file, `model_specs/spec.schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
