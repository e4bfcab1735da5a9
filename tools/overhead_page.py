"""Write docs/overhead.md from the committed measurement: `python tools/bench_docs.py` runs it with
the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autocache.runtime.sizes import readable_bytes

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "overhead.json"
IMPORTING = RESULT.with_name("importing.json")
PAGE = ROOT / "docs" / "overhead.md"
AGAIN, NEVER = "plain, again", "never skipping"
KINDS = ("computed", "skipped")
SAME = {
    f"diffusers FirstBlockCache, {NEVER}": f"autocache fbcache, {NEVER}",
    "diffusers FirstBlockCache": "autocache fbcache",
    "diffusers MagCache": "autocache magcache",
    "diffusers TaylorSeer": "autocache taylorseer",
    "diffusers PAB": "autocache attention",
    "cache-dit DBCache": "autocache fbcache",
}
"""By a peer's row: the row here that does the same."""
LEAST = 0.01
"""Share of a plain step's instructions that is taken for nothing."""
BOOKS = (
    "What is kept of each module is entered in the books, by which memory is told and limited, and "
    "guarded against being written to, which a bare reference is not; in torch operations, of "
    "which each takes as long as a hundred instructions, it is the other way round or even. Fewer "
    "instructions would mean to enter all modules of a step at once, at its end."
)
STEP = (
    "Some five thousand instructions of a step are the same however many blocks there are: whose "
    "step it is (generation, guidance branch, thread, request), and what is told of it afterwards. "
    "In a model of few blocks they are a larger share. Fewer would mean to look up less of that "
    "anew in every step."
)
REASONS: dict[tuple[str, str], str] = {
    ("autocache attention", "computed step"): BOOKS,
    ("autocache attention", "skipped step"): BOOKS,
    (f"autocache fbcache, {NEVER}", "computed step"): STEP,
    ("autocache magcache", "computed step"): STEP,
    ("autocache magcache", "skipped step"): STEP,
    ("autocache taylorseer", "computed step"): BOOKS,
    ("autocache taylorseer", "skipped step"): BOOKS,
    ("autocache fbcache", "skipped step"): (
        "Every skipped block is called and hands on what it was given, so that whoever holds a "
        "block, hooks it or looks through the model finds it as it was. cache-dit puts one module "
        "in the place of the list, and calls no block. To do the like would save instructions. "
        f"{STEP}"
    ),
}
"""Why a peer is ahead of a row here in something, and what would change it."""
Row = dict[str, Any]
Rows = dict[str, Row]

ABOUT = """# What it adds to a step

A step in which a method computes everything and one in which it skips, beside the plain model's and
those of other libraries' caches on the same models. The weights are random, so thresholds mean
nothing: methods that have one skip whenever they are allowed to, which is every second step from
the {first}rd on, and the rows named *{never}* never do.

Two models have so small a width that hardly anything but the calls of their modules takes time: the
worst case there is. At the size that models are used at, the same microseconds are a small share of
a step.

What is counted is the same on every machine:

- **instructions** and **operations**: Python instructions that run in a step, whoever they are of,
  and torch operations. For a computed step it is how many more than in the plain model's.
- **waits**: numbers that most steps of the kind read off a tensor, for which a GPU is waited for.
- **held**: bytes of tensors between two steps that are not there at the same place of the plain
  loop, at most.
- **calls**: calls of modules that autocache stands before in a step.
"""
QUIET = 0.01
"""By how much the plain model may be off itself where times are shown."""
LEFT_OUT = """Times were taken too and are left out: the plain model was off itself by {off:.1%}, on
a machine that did other things as well.
"""
TIME = """**Time** is that of this machine, as a ratio to the plain step's: processor time of one
thread, in turns within one process, the median of {rounds} rounds. *{again}* is the plain model
against itself, and tells what the ratios are worth; in brackets are the microseconds added for each
such call where nothing is skipped or kept.
"""

START = """Importing a library and installing its method on the 57 blocks of FLUX, each time in a
program of its own. Time is what it adds to the processor time of all before it: importing torch and
diffusers, and building the model. diffusers' own hooks are imported with its models. By pydantic,
which is much of ours, specs and parameters are validated; to do without would be faster, and lose
the errors that name all that is wrong at once.
"""


def page() -> str:
    """The page as Markdown."""
    result = json.loads(RESULT.read_text())
    machine, known = result["machine"], result["versions"]
    about = ABOUT.format(first=result["computed_first"] + 1, never=NEVER)
    origin = (
        f"`{result['command']}`, {machine['processor']}, {machine['threads']} thread, Python "
        f"{known['python']}, torch {known['torch']}, diffusers {known['diffusers']}, cache-dit "
        f"{known['cache_dit']}."
    )
    off = _off(result) if result["rounds"] else 0.0
    timed = bool(result["rounds"]) and off <= QUIET
    time = TIME.format(again=AGAIN, rounds=result["rounds"]) if timed else ""
    parts = [about, time or (LEFT_OUT.format(off=off) if off else ""), origin]
    parts += ["## Where another library is ahead", *_behind(result["models"])]
    for model in result["models"].values():
        parts += [f"## {model['title']}", _table(model["rows"], timed)]
    parts += _importing(json.loads(IMPORTING.read_text()))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _importing(result: dict[str, Any]) -> Iterator[str]:
    """What a method adds to the start of a program."""
    machine, known = result["machine"], result["versions"]
    yield f"## At the start of a program\n\n{START}"
    timed = result["rounds"] > 0
    head = (
        "",
        "modules imported, of them its own",
        *(("time", "time of a second patch") if timed else ()),
    )
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, row in result["rows"].items():
        cells = [f"{row['modules']}, {row['own_modules']}"]
        if timed:
            again = row.get("again")
            cells += [f"+{row['ratio'] - 1:.1%}", "" if again is None else f"+{again - 1:.2%}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    yield "\n".join(lines)
    yield (
        f"`{result['command']}`, {machine['processor']}, {machine['threads']} thread, Python "
        f"{known['python']}, torch {known['torch']}, diffusers {known['diffusers']}, cache-dit "
        f"{known['cache_dit']}, pydantic {known['pydantic']}."
    )


def _off(result: dict[str, Any]) -> float:
    """By what share of itself the plain model was off."""
    again = [
        model["rows"][AGAIN]["time"]["computed"]["ratio"] for model in result["models"].values()
    ]
    return max(abs(ratio - 1) for ratio in again)


def never_skipping(result: dict[str, Any]) -> dict[str, float]:
    """What share of the plain step's instructions each method that never skips adds, on the deepest
    model."""
    rows = result["models"]["flux_narrow"]["rows"]
    plain = rows[AGAIN]["work"]["computed"]["instructions"]
    return {
        name.removesuffix(f", {NEVER}"): row["work"]["computed"]["instructions"] / plain - 1
        for name, row in rows.items()
        if name.endswith(NEVER)
    }


def _table(rows: Rows, timed: bool) -> str:
    plain = rows[AGAIN]["work"]["computed"]
    head = (
        "",
        "computed: instructions, operations",
        "skipped: instructions, operations",
        "waits, computed / skipped",
        "held",
        "calls",
        *(("time, computed", "time, skipped") if timed else ()),
    )
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    none = "-" * any("skipped" in row["work"] for row in rows.values())
    usual = [f"{plain['instructions']:,}, {plain['operations']:,}", none, "0", "0 B", ""]
    lines.append(f"| plain | {' | '.join([*usual, *(['1', none] if timed else [])])} |")
    for name, row in rows.items():
        done = row["work"]
        more = {key: done["computed"][key] - plain[key] for key in plain if "computed" in done}
        cells = [
            f"{more['instructions']:+,}, {more['operations']:+,}" if more else "-",
            f"{done['skipped']['instructions']:,}, {done['skipped']['operations']:,}"
            if "skipped" in done
            else "-",
            " / ".join(_count(row["waits"].get(kind)) for kind in KINDS),
            readable_bytes(row["bytes"]),
            f"{row['intercepted']:g}" if "intercepted" in row else "",
        ]
        if timed:
            cells += [_time(row, "computed") + _each(name, row), _time(row, "skipped")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(row: Row, kind: str) -> str:
    one = row["time"].get(kind)
    return "-" if one is None else f"{one['ratio']:.3f}"


def _each(name: str, row: Row) -> str:
    """Microseconds of each intercepted call that does nothing."""
    count = row.get("intercepted")
    if not count or not name.endswith(NEVER):
        return ""
    return f" ({row['time']['computed']['added_us'] / count:.1f} us)"


def _count(one: float | None) -> str:
    return "-" if one is None else f"{one:g}"


def _behind(models: dict[str, Any]) -> Iterator[str]:
    """Where a peer's row is better than the same here."""
    found: dict[tuple[str, str], list[str]] = {}
    for model in models.values():
        rows = model["rows"]
        plain = rows[AGAIN]["work"]["computed"]["instructions"]
        for peer, ours in SAME.items():
            if peer in rows and ours in rows:
                for what, words in _worse(rows[ours], rows[peer], LEAST * plain):
                    found.setdefault((ours, what), []).append(f"{model['title']}: {words} ({peer})")
    yield (
        f"In what is counted: instructions by more than {LEAST:.0%} of those of a plain step, and "
        "anything at all in waits and in what is held."
    )
    yield (
        "\n".join(
            f"- **{ours}, {what}.** {'; '.join(rows)}. {_reason(ours, what, rows)}"
            for (ours, what), rows in found.items()
        )
        or "Nowhere."
    )


def _worse(ours: Row, theirs: Row, margin: float) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        done = [row["work"].get(kind) for row in (ours, theirs)]
        if None not in done and done[0]["instructions"] > done[1]["instructions"] + margin:
            words = [f"{one['instructions']:,} and {one['operations']:,}" for one in done]
            yield f"{kind} step", f"{' to '.join(words)} instructions and operations"
        waits = [row["waits"].get(kind) for row in (ours, theirs)]
        if None not in waits and waits[0] > waits[1]:
            yield f"waits of a {kind} step", f"{waits[0]:g} to {waits[1]:g}"
    if ours["bytes"] > theirs["bytes"]:
        sizes = [readable_bytes(row["bytes"]) for row in (ours, theirs)]
        yield "held", " to ".join(sizes)


def _reason(ours: str, what: str, rows: list[str]) -> str:
    if (ours, what) not in REASONS:
        raise ValueError(f"REASONS in {__file__} does not say why {ours}, {what}, is behind {rows}")
    return REASONS[ours, what]
