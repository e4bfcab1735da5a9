"""A model with options on both sides of it, or a script whose arguments are all behind it."""

from __future__ import annotations

import argparse
from typing import Any


class ModelOrScript(argparse.Action):
    """Of a positional that takes all that is left: `model`, and of a script its `arguments`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """What stands behind a model is the command's, and is read as if it stood before it."""
        words = values[1:] if values[:1] == ["--"] else values
        if not words:
            return
        if namespace.model is not None:
            # Beside an option that is unknown too, which is what to name: the parser has both then.
            setattr(namespace, argparse._UNRECOGNIZED_ARGS_ATTR, list(words))
            return
        namespace.model, *rest = words
        if namespace.model.endswith(".py"):
            namespace.arguments = rest
        elif rest:
            parser.parse_args(rest, namespace)
