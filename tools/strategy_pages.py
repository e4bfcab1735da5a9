"""Write one page per strategy from its parameter model: `python tools/strategy_pages.py`."""

from __future__ import annotations

from pathlib import Path

import autocache
from autocache.strategy.info import ParameterInfo, StrategyInfo

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "strategies"
# Values for what has no default.
EXAMPLES = {"steps": [0, 1, 2, 4, 6, 8, 11, 14, 18, 23], "total": 28}


def page(info: StrategyInfo) -> str:
    """The Markdown page of a strategy."""
    own = [p for p in info.parameters.values() if not p.universal]
    universal = [p for p in info.parameters.values() if p.universal]
    parts = [
        f"# {info.name}",
        f"{info.summary} {info.about}".strip(),
        f"**Formula.** {info.formula}",
        f"**Memory.** {info.memory}",
        f"**Choose it** {info.choose_it}",
        f"**Source.** {info.source}",
        f"```python\nimport autocache\n\nautocache.patch({_arguments(info)})\n```",
        "## Parameters",
        _table(own) if own else "None of its own.",
        "## Options that go with every strategy",
        "A default of `None` is the strategy's own choice.",
        _table(universal),
    ]
    return "\n\n".join(parts) + "\n"


def _arguments(info: StrategyInfo) -> str:
    needed = [f"{p.name}={EXAMPLES[p.name]}" for p in info.parameters.values() if p.required]
    return ", ".join(["pipe", f'"{info.name}"', *needed])


def index(infos: list[StrategyInfo]) -> str:
    """The Markdown list of all strategies."""
    rows = [f"| [{info.name}]({info.name}.md) | {info.summary} |" for info in infos]
    return "\n".join(["# Strategies", "", "| name | what it does |", "|---|---|", *rows, ""])


def pages() -> dict[str, str]:
    """Every page by its file name."""
    infos = autocache.strategies()
    return {"README.md": index(infos)} | {f"{info.name}.md": page(info) for info in infos}


def _table(parameters: list[ParameterInfo]) -> str:
    rows = [
        f"| `{p.name}` | {_cell(p.values)} | {_shown(p)} | {_cell(p.description)} |"
        for p in parameters
    ]
    return "\n".join(["| parameter | values | default | meaning |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(parameter: ParameterInfo) -> str:
    if parameter.required:
        return "to be given"
    value = repr(parameter.default).replace("|", "\\|")
    return f"`{value}`"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    written = pages()
    for stale in set(FOLDER.glob("*.md")) - {FOLDER / name for name in written}:
        stale.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
