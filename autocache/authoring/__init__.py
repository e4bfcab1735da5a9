"""Tools for those who write model specs: drafts, checks of files, proofs on tiny models."""

from __future__ import annotations

# The functions take the names of the modules they are in, so they cannot be looked up when needed:
# an import of such a module would put the module in the function's place.
from autocache.authoring.draft import draft
from autocache.authoring.json_schema import schema
from autocache.authoring.overview import overview
from autocache.authoring.validate import validate
from autocache.authoring.verify import as_json, table, verify

__all__ = ["as_json", "draft", "overview", "schema", "table", "validate", "verify"]
