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
MACHINE = RESULT.with_name("overhead_machine.json")
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
LEAST, LEAST_OF_PYTHON = 0.003, 0.01
"""Share of a plain step's instructions, of the machine and of Python, that is taken for nothing."""
BOOKS = (
    "What is kept of each module is entered in the books, by which memory is told and limited, and "
    "guarded against being written to, which a bare reference is not. That is more Python and less "
    "of torch, and both together fewer machine instructions where these were counted. Less Python "
    "would mean to enter all modules of a step at once, at its end."
)
STEP = (
    "Some five thousand Python instructions of a step are the same however many blocks there are: "
    "whose step it is (generation, guidance branch, thread, request), and what is told of it "
    "afterwards. In a model of few blocks they are a larger share. Fewer would mean to look up "
    "less of that anew in every step."
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
        "in the place of the list, and calls no block. To do the like would close the gap. "
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

What is counted does not depend on how busy the machine is:

- **computed** and **skipped**: all machine instructions of such a step, be they of the interpreter,
  of torch or of the method, as a ratio to those of a plain step on the same model just before. They
  are those of one processor and one build of torch. *{again}* is the plain model against itself,
  and tells what the ratios are worth. On the model of some width nearly all of them multiply, and
  they were not counted.
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
    result, counted = json.loads(RESULT.read_text()), json.loads(MACHINE.read_text())
    machine, known = result["machine"], result["versions"]
    about = ABOUT.format(first=result["computed_first"] + 1, never=NEVER, again=AGAIN)
    origin = (
        f"`{result['command']}`; of machine instructions `{counted['command']}`, valgrind "
        f"{counted['versions']['valgrind']}; {machine['processor']}, {machine['threads']} thread, "
        f"Python {known['python']}, torch {known['torch']}, diffusers {known['diffusers']}, "
        f"cache-dit {known['cache_dit']}."
    )
    off = _off(result) if result["rounds"] else 0.0
    timed = bool(result["rounds"]) and off <= QUIET
    time = TIME.format(again=AGAIN, rounds=result["rounds"]) if timed else ""
    parts = [about, time or (LEFT_OUT.format(off=off) if off else ""), origin]
    models = [
        (model["title"], with_machine(model["rows"], counted["models"].get(name, {})))
        for name, model in result["models"].items()
    ]
    parts += ["## Where another library is ahead", *_behind(models)]
    for title, rows in models:
        parts += [f"## {title}", _table(rows, timed)]
    parts += _importing(json.loads(IMPORTING.read_text()))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def with_machine(rows: Rows, counted: dict[str, Any]) -> Rows:
    """Rows with the machine instructions of each kind of step, as ratios to the plain step's, where
    they were counted."""
    return {
        name: {
            **row,
            "machine": {kind: one["ratio"] for kind, one in counted.get(name, {}).items()},
        }
        for name, row in rows.items()
    }


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


def never_skipping(counted: dict[str, Any]) -> dict[str, float]:
    """The machine instructions of a step of each method that never skips, on the deepest model, as
    a ratio to the plain step's."""
    return {
        name.removesuffix(f", {NEVER}"): row["computed"]["ratio"]
        for name, row in counted["models"]["flux_narrow"].items()
        if name.endswith(NEVER)
    }


def _table(rows: Rows, timed: bool) -> str:
    plain = rows[AGAIN]["work"]["computed"]
    machine = any(row["machine"] for row in rows.values())
    head = (
        "",
        *(KINDS if machine else ()),
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
    itself = ["1", none]
    cells = [*(itself if machine else []), *usual, *(itself if timed else [])]
    lines.append(f"| plain | {' | '.join(cells)} |")
    for name, row in rows.items():
        done = row["work"]
        more = {key: done["computed"][key] - plain[key] for key in plain if "computed" in done}
        cells = [
            *(_ratio(row["machine"].get(kind)) for kind in KINDS if machine),
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
    return _ratio(row["time"].get(kind, {}).get("ratio"))


def _ratio(one: float | None) -> str:
    return "-" if one is None else f"{one:.3f}"


def _each(name: str, row: Row) -> str:
    """Microseconds of each intercepted call that does nothing."""
    count = row.get("intercepted")
    if not count or not name.endswith(NEVER):
        return ""
    return f" ({row['time']['computed']['added_us'] / count:.1f} us)"


def _count(one: float | None) -> str:
    return "-" if one is None else f"{one:g}"


def _behind(models: list[tuple[str, Rows]]) -> Iterator[str]:
    """Where a peer's row is better than the same here."""
    found: dict[tuple[str, str], list[str]] = {}
    for title, rows in models:
        plain = rows[AGAIN]["work"]["computed"]["instructions"]
        for peer, ours in SAME.items():
            if peer in rows and ours in rows:
                for what, words in _worse(rows[ours], rows[peer], plain):
                    found.setdefault((ours, what), []).append(f"{title}: {words} ({peer})")
    yield (
        f"In what is counted: machine instructions by more than {LEAST:.1%} of a plain step's, or "
        f"where they were not counted those of Python by more than {LEAST_OF_PYTHON:.0%}, and "
        "anything at all in waits and in what is held."
    )
    yield (
        "\n".join(
            f"- **{ours}, {what}.** {'; '.join(rows)}. {_reason(ours, what, rows)}"
            for (ours, what), rows in found.items()
        )
        or "Nowhere."
    )


def _worse(ours: Row, theirs: Row, plain: int) -> Iterator[tuple[str, str]]:
    """`plain` is the number of Python instructions of the plain step."""
    for kind in KINDS:
        machine = [row["machine"].get(kind) for row in (ours, theirs)]
        python = [row["work"].get(kind, {}).get("instructions") for row in (ours, theirs)]
        if None not in machine:
            if machine[0] > machine[1] + LEAST:
                yield f"{kind} step", f"{machine[0]:.3f} to {machine[1]:.3f} of a plain step"
        elif None not in python and python[0] > python[1] + LEAST_OF_PYTHON * plain:
            yield f"{kind} step", f"{python[0]:,} to {python[1]:,} Python instructions"
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
