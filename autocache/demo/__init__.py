"""The bundled pipelines, the scenes they were trained on, and the demonstration built on them."""

from __future__ import annotations

from pathlib import Path

from autocache.errors import AutocacheError, nearest

_BUNDLED = Path(__file__).parent / "models"
_EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
_TRAINERS = {
    "shapes": "tools/train_demo.py",
    "shapes_sd": "tools/train_sd.py",
    "shapes_wan": "tools/train_wan.py",
}


def path(name: str = "shapes") -> str:
    """Folder of a bundled pipeline, for the `from_pretrained` of its class.

    "shapes" is a `FluxPipeline` and in every installation; "shapes_sd", a
    `StableDiffusionPipeline`, and "shapes_wan", a `WanPipeline`, are in the repository alone.

    Raises:
        AutocacheError: no pipeline of that name is bundled, or its files are missing.
    """
    if name not in _TRAINERS:
        raise AutocacheError(f"no bundled pipeline {name!r}{nearest(name, _TRAINERS)}")
    installed = name == "shapes"
    folder = (_BUNDLED if installed else _EXAMPLES) / name
    if not (folder / "model_index.json").is_file():
        remedy = (
            "reinstall autocache, or train it with"
            if installed
            else "it comes with the repository and not with the package: use a checkout, whose"
        )
        raise AutocacheError(
            f"the bundled pipeline {name!r} is not in this installation ({folder} has no "
            f"model_index.json); {remedy} {_TRAINERS[name]}{'' if installed else ' trains it'}"
        )
    return str(folder)
