"""`autocache.report`: a file about a run, of the kind its name ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocache.errors import AutocacheError, nearest
from autocache.reporting.document import document, text
from autocache.run_stats import RunStats

SUFFIXES = (".html", ".json", ".png")


def report(
    target: Any,
    file: str | Path,
    *,
    images: Any = None,
    baseline: Any = None,
    captions: Sequence[str] | None = None,
) -> Path:
    """Write what a patched pipeline did: as a page, as data, or as figures.

    Args:
        target: a patched pipeline or model, a `Patch`, or a `RunStats`.
        file: where to write. `.html` is one page that needs nothing else and no network; `.json`
            is the same as data, for `autocache report` to make a page or figures of later; `.png`
            is the figures, without the pictures. Folders that are missing are made, and a file
            that is there is replaced.
        images: what the run drew, to show: the pipeline's output, its `images` or `frames`; PIL
            images, arrays (count, height, width, channels) or tensors (count, channels, height,
            width), and (videos, frames, ...) of them; floats in [0, 1] or bytes.
        baseline: what the same prompts and seeds gave without caching. Beside the pictures are
            then those, the difference, PSNR in dB and SSIM.
        captions: one for each picture or video, such as its prompt.

    Returns:
        The file.

    Raises:
        PatchError: the target is not patched.
        AutocacheError: the file has none of these endings or cannot be written, the pictures are
            not of one shape, or a package of the extra `report` is missing.
    """
    path = checked(file)
    if baseline is not None and images is None:
        raise AutocacheError("baseline is compared with images; give what the run drew as images=")
    if captions is not None and images is None:
        raise AutocacheError("captions are those of images; give what the run drew as images=")
    shown = None
    if images is not None and path.suffix.lower() != ".png":
        from autocache.reporting.pictures import compare

        shown = compare(images, baseline, captions)
    stats, devices = _seen(target)
    return write(document([stats.to_dict()], devices, shown), path)


def _seen(target: Any) -> tuple[RunStats, list[str]]:
    """The stats of a target, and the devices its denoisers are on."""
    if isinstance(target, RunStats):
        return target, [place.device for place in target.memory.places if place.device]
    from autocache import api
    from autocache.planning import sessions_of

    if isinstance(target, api.Patch):
        return target.stats(), devices_of(target.denoisers)
    stats = api.stats(target)
    return stats, devices_of([s.model for s in sessions_of(target) if s.model is not None])


def devices_of(models: Sequence[Any]) -> list[str]:
    """The devices that models compute on, those of an accelerator with its name."""
    import torch

    from autocache.runtime.offload import computes_on

    found = []
    for model in models:
        weights = next(model.parameters(), None)
        place = computes_on(model) or (None if weights is None else weights.device)
        if place is None:
            continue
        place = torch.device(place)
        module = getattr(torch, place.type, None)
        name = getattr(module, "get_device_name", None)
        found.append(f"{place} ({name(place)})" if name is not None else str(place))
    return found


def checked(file: str | Path) -> Path:
    """The file as a path, once its ending is known to be one there is.

    Raises:
        AutocacheError: it is not.
    """
    path = Path(file).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        ending = f"{suffix!r}{nearest(suffix, SUFFIXES)}" if suffix else "no ending"
        raise AutocacheError(
            f"a report is a file that ends in .html, .json or .png; {str(file)!r} has {ending}"
        )
    return path


def write(made: Mapping[str, Any], path: Path) -> Path:
    """Write a report as what the file's name ends in.

    Raises:
        AutocacheError: the file cannot be written, or a package that it takes is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".html":
        from autocache.reporting.page import page

        content = page(made).encode()
    elif suffix == ".png":
        from autocache.reporting.figures import png

        content = png(made)
    else:
        content = text(made).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise AutocacheError(f"cannot write {path}: {error.strerror or error}") from error
    return path
