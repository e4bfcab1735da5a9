"""What the modules and the source of a class tell where no forward could be run."""

from __future__ import annotations

from torch import nn

from autocache.authoring import source
from autocache.authoring.yaml_writer import Entry, Note, question


def of_modules(cls: type[nn.Module], model: nn.Module | None, problem: str) -> list[Entry | Note]:
    """Nothing is certain: candidates for stacks, each of them a question."""
    lines = [
        question(
            f"no forward could be run, so nothing below was seen to happen. {problem}",
            decisive=True,
        ),
        "Give a tiny config and inputs (--config, --inputs) to have the rest found out.",
    ]
    for site in source.sites(cls):
        if site.replaces:
            given = [name for name in (*site.positional, *(v for _, v in site.keywords)) if name]
            taken = ", ".join(name or "?" for name in site.targets)
            text = f"is {site.path} a stack? Its blocks are called with {', '.join(given)} and "
            lines.append(question(f"{text}return {taken}{_blocks(model, site.path)}."))
    reason = "no forward of it could be run, so its blocks are not known"
    return [Entry("no_blocks", reason, lines)]


def _blocks(model: nn.Module | None, path: str) -> str:
    if model is None:
        return ""
    try:
        found = model.get_submodule(path)
    except AttributeError:
        return ""
    names = dict.fromkeys(type(block).__name__ for block in found.children())
    return f"; they are {', '.join(names)}" if names else ""
