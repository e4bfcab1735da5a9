"""Write docs/scaling.md from the committed measurement: `python tools/scale_page.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autocache.runtime.sizes import readable_bytes

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scaling.md"
DIMENSIONS = {
    "blocks": "with the number of blocks",
    "steps": "with the number of steps",
    "tokens": "with the number of tokens",
    "batch": "with the number of samples in a batch",
}
TIME = (
    " **Time** is the step's as a ratio to the plain model's in the same round, the median of a "
    "few rounds on a machine that does other things too."
)
Rows = dict[str, dict[str, dict[str, Any]]]


def page() -> str:
    """The page as Markdown."""
    result = json.loads(RESULT.read_text())
    machine, known = result["machine"], result["versions"]
    usual = ", ".join(f"{value} {name}" for name, value in result["otherwise"].items())
    parts = [
        "# How the cost grows",
        "What patching adds to a step, where one number grows and the others stay: "
        f"{usual}. The model is a {result['model']}: so small that hardly anything but the "
        "overhead takes time, which makes the ratios the worst there are.",
        "**Instructions** are those of Python's interpreter in our own files, in a step that "
        "computes and in one that skips: the same on every machine with this Python, and asserted "
        f"in tests.{TIME if _timed(result['growth']['blocks']) else ''}",
        f"`{result['command']}`, {machine['processor']}, {machine['threads']} thread, Python "
        f"{known['python']}, torch {known['torch']}, diffusers {known['diffusers']}.",
    ]
    for name, heading in DIMENSIONS.items():
        rows = result["growth"][name]
        parts += [f"## {heading[0].upper()}{heading[1:]}", *_growth(name, rows)]
    parts += ["## With what else is patched", *_sessions(result["sessions"])]
    return "\n\n".join(parts) + "\n"


def _growth(name: str, rows: Rows) -> list[str]:
    parts = [
        "Instructions per step, computed and skipped:",
        _table(name, rows, lambda row: _both(row, "instructions", "{:,}")),
    ]
    if _timed(rows):
        parts += ["Time of a step, computed and skipped:"]
        parts += [_table(name, rows, lambda row: _both(row, "ratio", "{:.2f}"))]
    if name == "blocks":
        parts += ["Instructions of `autocache.patch`, once the specs are read:"]
        parts += [_table(name, rows, lambda row: f"{row['patch_instructions']:,}")]
    exact = all(row["bytes"] == row["formula"] for each in rows.values() for row in each.values())
    said = "exactly what the strategy's formula says" if exact else "not what the formula says"
    return [*parts, f"Bytes kept, {said}:", _table(name, rows, _bytes)]


def _timed(rows: Rows) -> bool:
    return all("ratio" in row["computed"] for each in rows.values() for row in each.values())


def _both(row: dict[str, Any], what: str, form: str) -> str:
    return " / ".join(form.format(row[kind][what]) for kind in ("computed", "skipped"))


def _bytes(row: dict[str, Any]) -> str:
    return readable_bytes(row["bytes"])


def _table(name: str, rows: Rows, cell: Callable[[dict[str, Any]], str]) -> str:
    strategies = list(next(iter(rows.values())))
    lines = [f"| {name} | " + " | ".join(rows) + " |", "|---|" + "---:|" * len(rows)]
    for strategy in strategies:
        cells = [cell(each[strategy]) for each in rows.values()]
        lines.append(f"| [{strategy}](strategies/{strategy}.md) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sessions(sessions: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    counts = list(dict.fromkeys(count for rows in sessions.values() for count in rows))
    lines = ["| others | " + " | ".join(counts) + " |", "|---|" + "---:|" * len(counts)]
    for name, rows in sessions.items():
        cells = [_session(rows[count]) if count in rows else "" for count in counts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    timed = any("ratio" in row for rows in sessions.values() for row in rows.values())
    time = ", and its time as a ratio to the time alone" if timed else ""
    return [
        f"Instructions per step of one generation{time}. "
        "*Requests by turns* are so many at work, each taking a step in its turn.",
        "\n".join(lines),
        *(_cost_of_one(name, rows) for name, rows in sessions.items() if "0" in rows),
    ]


def _cost_of_one(name: str, rows: dict[str, dict[str, float]]) -> str:
    """In words, what one more costs a step."""
    most = max(rows, key=int)
    each = (rows[most]["instructions"] - rows["0"]["instructions"]) / int(most)
    if round(each) <= 0:
        return f"{name.capitalize()} cost the busy one nothing."
    return (
        f"Each of the {name} costs a step of the busy one {each:.0f} instructions, which is "
        f"{each / rows['0']['instructions']:.1%} of what a step costs alone."
    )


def _session(row: dict[str, float]) -> str:
    ratio = f" ({row['ratio']:.2f})" if "ratio" in row else ""
    return f"{row['instructions']:,.0f}{ratio}"


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
