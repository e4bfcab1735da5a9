"""The bundled pipeline, the scenes it was trained on, and the demonstration built on both."""

from __future__ import annotations

from pathlib import Path

from autocache.errors import AutocacheError, nearest

_MODELS = Path(__file__).parent / "models"
_NAMES = ("shapes",)


def path(name: str = "shapes") -> str:
    """Folder of a bundled pipeline, for `FluxPipeline.from_pretrained`.

    Raises:
        AutocacheError: no pipeline of that name is bundled, or its files are missing.
    """
    if name not in _NAMES:
        raise AutocacheError(f"no bundled pipeline {name!r}{nearest(name, _NAMES)}")
    folder = _MODELS / name
    if not (folder / "model_index.json").is_file():
        raise AutocacheError(
            f"the bundled pipeline {name!r} is not in this installation ({folder} has no "
            "model_index.json); reinstall autocache, or train it with tools/train_demo.py"
        )
    return str(folder)
